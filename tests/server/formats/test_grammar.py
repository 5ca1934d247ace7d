"""What a grammar lets a model write is read back as calls that satisfy their schemas.

The model is chance: a token is drawn from those that the grammar allows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import jsonschema
import numpy as np
import pytest
from answers import HAUL, TOOLS, Said, joined
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from windlass import demo_model
from windlass.config import StructuredOutputConfig
from windlass.errors import RequestError
from windlass.request import SamplingParams, StructuredOutputs
from windlass.structured_output.grammar import write_grammar
from windlass.text import Tokenizer
from windlass_server.chat.call import ChatCall, ToolChoice
from windlass_server.formats.chat_format import ModelFormat
from windlass_server.formats.detect import REASONING, SYNTAXES
from windlass_server.formats.parser import ReasoningTags

SCHEMAS = {"haul": HAUL, "rest": {"type": "object", "maxProperties": 0}}
MOST_TOKENS = 250


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(str(demo_model.path()))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    return from_tokenizer(tokenizer.hf_tokenizer)


class Writer:
    """Writes what a grammar allows, by chance."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: LLTokenizer) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary

    def write(self, grammar: str, seed: int, begin: str = "") -> str | None:
        """An answer that begins with `begin`; None when it does not end in time."""
        tokens = self.tokens(grammar, seed, begin)
        return None if tokens is None else self._tokenizer.decode(tokens, skip_special_tokens=False)

    def tokens(self, grammar: str, seed: int, begin: str = "") -> list[int] | None:
        """The answer's tokens."""
        assert not LLMatcher.validate_grammar(grammar, self._vocabulary)
        matcher, chance = LLMatcher(self._vocabulary, grammar), random.Random(seed)
        mask = allocate_token_bitmask(1, self._vocabulary.vocab_size)
        tokens = self._tokenizer.encode(begin, add_special_tokens=False)
        for token in tokens:
            assert matcher.consume_token(token), matcher.get_error()
        end = self._tokenizer.eos_token_id
        for _ in range(MOST_TOKENS):
            if matcher.is_stopped():
                break
            fill_next_token_bitmask(matcher, mask, 0)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            token = end if end in allowed and chance.random() < 0.3 else int(chance.choice(allowed))
            if token == end:
                break
            assert matcher.consume_token(token)
            tokens.append(token)
        else:
            return None
        return tokens


@pytest.fixture(scope="module")
def writer(tokenizer: Tokenizer, vocabulary: LLTokenizer) -> Writer:
    return Writer(tokenizer, vocabulary)


def call(
    mode: Any = "required",
    *names: str,
    parallel: bool = True,
    bound: StructuredOutputs | None = None,
    tools: list[dict[str, Any]] = TOOLS,
) -> ChatCall:
    return ChatCall(
        messages=[],
        sampling=SamplingParams(structured_outputs=bound),
        tools=tools,
        tool_choice=ToolChoice(mode, names or None, bool(names)),
        parallel_tool_calls=parallel,
    )


def grammar_of(chat_format: ModelFormat, asked: ChatCall, *, in_reasoning: bool = False) -> str:
    constraint = chat_format.constraint(asked, in_reasoning=in_reasoning)
    assert constraint is not None
    return write_grammar(constraint, StructuredOutputConfig())


def read(chat_format: ModelFormat, text: str, *, in_reasoning: bool = False) -> Said:
    parser = chat_format.parser(TOOLS, in_reasoning=in_reasoning)
    return joined([*parser.feed(text), *parser.finish()])


def check(said: Said) -> None:
    for name, arguments in said.calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def format_named(name: str, reasoning: str | None = None, **fields: Any) -> ModelFormat:
    return ModelFormat(SYNTAXES[name](), REASONING[reasoning] if reasoning else None, **fields)


@pytest.mark.parametrize("name", SYNTAXES)
def test_required_calls_satisfy_their_schemas(name: str, writer: Writer) -> None:
    chat_format = format_named(name)
    grammar = grammar_of(chat_format, call("required"))
    texts = [text for seed in range(8) if (text := writer.write(grammar, seed)) is not None]
    assert texts
    for text in texts:
        said = read(chat_format, text)
        assert said.calls, text
        check(said)


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_named_tool_is_called_once(name: str, writer: Writer) -> None:
    chat_format = format_named(name)
    grammar = grammar_of(chat_format, call("required", "haul", parallel=False))
    texts = [text for seed in range(4) if (text := writer.write(grammar, seed)) is not None]
    assert texts
    for text in texts:
        said = read(chat_format, text)
        assert [called for called, _ in said.calls] == ["haul"], text
        check(said)


BEGUN = {
    "hermes": 'So: <tool_call>\n{"name": "',
    "qwen3_coder": "So: <tool_call>\n<function=",
    "llama3_json": '{"name": "',
    "mistral": "So: [TOOL_CALLS]",
    "mistral_array": 'So: [TOOL_CALLS][{"name": "',
    "deepseek_v3": "So: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    "deepseek_v31": "So: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "harmony": "<|channel|>commentary to=functions.",
    "glm": "So: <tool_call>",
    "kimi": "So: <|tool_calls_section_begin|><|tool_call_begin|>functions.",
    "granite": 'So: <|tool_call|>[{"name": "',
    "pythonic": "[",
}


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_call_that_the_model_chose_to_begin_is_bound_too(name: str, writer: Writer) -> None:
    chat_format = format_named(name)
    grammar = grammar_of(chat_format, call("auto", parallel=False))
    texts = [t for seed in range(4) if (t := writer.write(grammar, seed, BEGUN[name])) is not None]
    assert texts
    for text in texts:
        said = read(chat_format, text)
        assert len(said.calls) == 1, text
        check(said)


def test_with_a_choice_a_model_may_just_talk(writer: Writer) -> None:
    chat_format = format_named("hermes")
    text = writer.write(grammar_of(chat_format, call("auto")), 1)
    assert text is not None
    assert read(chat_format, text).content == text


@pytest.mark.parametrize("in_reasoning", [False, True])
def test_reasoning_is_free_and_the_answer_behind_it_is_bound(
    in_reasoning: bool, writer: Writer
) -> None:
    chat_format = format_named("hermes", "think")
    bound = StructuredOutputs(json=HAUL)
    asked = call("none", bound=bound, tools=[])
    grammar = grammar_of(chat_format, asked, in_reasoning=in_reasoning)
    begun = ("" if in_reasoning else "<think>") + "Hm {} </think>"
    text = writer.write(grammar, 3, begun)
    assert text is not None
    said = read(chat_format, text, in_reasoning=in_reasoning)
    assert said.reasoning == "Hm {} "
    jsonschema.validate(json.loads(said.content), HAUL)


@pytest.mark.parametrize(
    "bound",
    [
        StructuredOutputs(json=HAUL),
        StructuredOutputs(json_object=True),
        StructuredOutputs(regex="[a-c]{3}"),
        StructuredOutputs(choice=("left", 'r"ight')),
    ],
)
def test_every_bound_text_may_stand_behind_reasoning(
    bound: StructuredOutputs, writer: Writer
) -> None:
    chat_format = format_named("hermes", "think")
    grammar = grammar_of(chat_format, call("none", bound=bound, tools=[]), in_reasoning=True)
    texts = [writer.write(grammar, seed, "x</think>") for seed in range(4)]
    assert any(texts)


def test_a_grammar_of_the_clients_own_is_refused_behind_reasoning() -> None:
    asked = call("none", bound=StructuredOutputs(grammar='start: "a"'), tools=[])
    with pytest.raises(RequestError, match="turn reasoning off"):
        format_named("hermes", "think").constraint(asked, in_reasoning=False)
    constraint = format_named("hermes").constraint(asked, in_reasoning=False)
    assert constraint is asked.sampling.structured_outputs


def test_a_schemas_text_cannot_loosen_the_grammar() -> None:
    asked = call("none", bound=StructuredOutputs(json='{"type": "integer"} | /.*/'), tools=[])
    with pytest.raises(RequestError, match="no valid JSON"):
        format_named("hermes", "think").constraint(asked, in_reasoning=False)


def test_special_tokens_are_written_by_their_ids(tokenizer: Tokenizer, writer: Writer) -> None:
    """The demo model's own special tokens, in the part of a format's."""
    special: Mapping[str, int] = tokenizer.special_tokens
    token = "<|endoftext|>"
    syntax = SYNTAXES["hermes"]()
    syntax.markers = (token,)
    syntax.call = lambda name, schema: [token, f"{name} ", *_arguments(schema)]  # type: ignore[method-assign]
    chat_format = ModelFormat(syntax, None, {token: special[token]})
    assert chat_format.keeps_special_tokens
    text = writer.write(grammar_of(chat_format, call("required", "rest", parallel=False)), 1)
    assert text is not None
    assert text.startswith(f"{token}rest {{")


def _arguments(schema: dict[str, Any]) -> list[Any]:
    from windlass_server.formats.syntax import Arguments

    return [Arguments(schema)]


class Bounded:
    """A format whose reasoning is ended by one token, a special one or another."""

    def __init__(self, tokenizer: Tokenizer, close: str, syntax: str = "hermes") -> None:
        self.token = tokenizer.special_tokens.get(close)
        special = {} if self.token is None else {close: self.token}
        if self.token is None:
            (self.token,) = tokenizer.encode(close, add_special_tokens=False)
        tags = ReasoningTags("<think>", close)
        self.format = ModelFormat(SYNTAXES[syntax](), tags, special, ids={close: self.token})


@pytest.fixture(params=["<|im_start|>", "Repeat"])
def bounded(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Bounded:
    return Bounded(tokenizer, request.param)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_reasoning_ends_where_its_budget_does(
    bounded: Bounded, budget: int, writer: Writer, tokenizer: Tokenizer
) -> None:
    asked = call("none", bound=StructuredOutputs(json=HAUL), tools=[])
    asked.thinking_budget = budget
    grammar = grammar_of(bounded.format, asked, in_reasoning=True)
    lengths = []
    for seed in range(6):
        tokens = writer.tokens(grammar, seed)
        if tokens is not None:
            lengths.append(tokens.index(bounded.token))
            said = read(bounded.format, tokenizer.decode(tokens, False), in_reasoning=True)
            jsonschema.validate(json.loads(said.content), HAUL)
    assert lengths
    assert max(lengths) == budget


def test_reasoning_may_end_before_its_budget(bounded: Bounded, writer: Writer) -> None:
    asked = call("required", "rest", tools=TOOLS)
    asked.thinking_budget = 200
    close = bounded.format.reasoning.close  # type: ignore[union-attr]
    grammar = grammar_of(bounded.format, asked)
    text = writer.write(grammar, 1, f"<think>Hm{close}")
    assert text is not None
    said = read(bounded.format, text)
    assert said.reasoning == "Hm"
    assert {name for name, _ in said.calls} == {"rest"}


@pytest.mark.parametrize("tools", [[], TOOLS])
def test_a_budget_binds_free_text_too(
    bounded: Bounded, tools: list[dict[str, Any]], writer: Writer, vocabulary: LLTokenizer
) -> None:
    """The answer cannot begin reasoning again, which nothing would count."""
    asked = call("auto" if tools else "none", tools=tools)
    asked.thinking_budget = 3
    grammar = grammar_of(bounded.format, asked, in_reasoning=True)
    close = bounded.format.reasoning.close  # type: ignore[union-attr]
    assert writer.write(grammar, 2, f"Hm{close}So: ") is not None
    with pytest.raises(AssertionError):
        writer.write(grammar, 2, f"Hm{close}So: <think>")


def test_harmony_has_a_budget(tokenizer: Tokenizer) -> None:
    chat_format = format_named("harmony", ids={"<|end|>": 2})
    asked = call("required", "rest")
    asked.thinking_budget = 4
    assert "[max_tokens=4]" in grammar_of(chat_format, asked)
    assert "max_tokens" not in grammar_of(format_named("harmony"), asked)
