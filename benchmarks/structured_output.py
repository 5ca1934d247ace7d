"""llguidance and xgrammar on the same JSON schemas: what they take, what comes out, what it costs.

    python benchmarks/structured_output.py [--walks N] [--output FILE]

Each schema of `windlass.testing.json_schemas` (those that Windlass guarantees and those that it
refuses) is compiled by xgrammar, by llguidance alone, and by llguidance as Windlass uses it. Seeded
random walks through the masks, over a made-up vocabulary of 131,072 tokens, give outputs that
`jsonschema` judges. Times are those of the compilation and of each mask, on one thread. Needs
`pip install xgrammar jsonschema`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "core" / "structured_output"))

from output_judge import fault  # noqa: E402 - the tests' judge

from windlass.testing.json_schemas import REFUSED, SCHEMAS  # noqa: E402

VOCABULARY = 131072
END = VOCABULARY - 1
LONGEST = 160
Mask = np.ndarray[tuple[int], np.dtype[np.int32]]


def vocabulary() -> list[bytes]:
    """All bytes, what JSON is made of, then words: every token differs from the others."""
    parts = ['":', '",', '{"', '"}', '": "', '": ', "},", "],", "[{", "}]", "true", "false", "null"]
    parts += [" " * n for n in range(2, 17)] + ["\n" + " " * n for n in range(17)]
    parts += [str(n) for n in range(10, 1000)]
    parts += ["é", "ü", "日本", "😀", '\\"', "\\n", "\\u00", "--", "..", "://"]
    for length in (2, 3, 4):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            parts += ["".join(letters), " " + "".join(letters)]
            if len(parts) > VOCABULARY:
                break
    tokens = dict.fromkeys([bytes([i]) for i in range(256)])
    tokens |= dict.fromkeys(part.encode() for part in parts)
    return [*list(tokens)[: VOCABULARY - 1], b"<end>"]


TOKENS = vocabulary()
CLOSING = np.array([i for i, token in enumerate(TOKENS) if token in (b'"', b"}", b"]", b'"}')])
STRUCTURE = np.array(
    [i for i, t in enumerate(TOKENS[:2000]) if set(t) <= set(b'{}[]":,-.0123456789')]
)


class Walker(Protocol):
    """A matcher of either library."""

    def fill(self, mask: Mask) -> None:
        """Set the bits of the tokens that may follow."""
        ...

    def accept(self, token: int) -> bool:
        """Go on behind a token; whether it was allowed."""
        ...


Engine = Callable[[Any], Walker]
"""Compiles a schema; raises ValueError for one that it refuses."""


class _Tokens:
    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = END
    special_token_ids = (END,)
    tokens = TOKENS

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class _Llguidance:
    def __init__(self, matcher: Any) -> None:  # noqa: ANN401 - it has no types
        self._matcher = matcher

    def fill(self, mask: Mask) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def accept(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token))


def llguidance_engines() -> tuple[Engine, Engine]:
    """llguidance alone, and as Windlass uses it."""
    from llguidance import LLMatcher, LLTokenizer

    from windlass.config import StructuredOutputConfig
    from windlass.request import SamplingParams, StructuredOutputs
    from windlass.structured_output.matcher import compile_matcher, write_constraint

    tokenizer = LLTokenizer(_Tokens(), eos_token=END)

    def alone(schema: dict[str, Any]) -> Walker:
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return _Llguidance(matcher)

    def windlass(schema: dict[str, Any]) -> Walker:
        params = SamplingParams(structured_outputs=StructuredOutputs(json=schema))
        grammar = write_constraint(params, StructuredOutputConfig())
        return _Llguidance(compile_matcher(tokenizer, grammar))

    return alone, windlass


class _Xgrammar:
    def __init__(self, matcher: Any) -> None:  # noqa: ANN401 - it has no types
        self._matcher = matcher

    def fill(self, mask: Mask) -> None:
        import torch

        if not self._matcher.fill_next_token_bitmask(torch.from_numpy(mask)[None]):
            mask.fill(-1)

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))


def xgrammar_engine() -> Engine:
    """xgrammar with its defaults, on one thread."""
    import xgrammar

    info = xgrammar.TokenizerInfo(
        TOKENS, xgrammar.VocabType.RAW, vocab_size=VOCABULARY, stop_token_ids=[END]
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_schema(schema: dict[str, Any]) -> Walker:
        try:
            compiled = compiler.compile_json_schema(json.dumps(schema))
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return _Xgrammar(xgrammar.GrammarMatcher(compiled))

    return compile_schema


def walk(walker: Walker, chance: random.Random, masks: list[float]) -> str | None:
    """One output, None when it found no end in time; notes the seconds of each mask."""
    mask = np.zeros(VOCABULARY // 32, dtype=np.int32)
    written: list[bytes] = []
    taste = 0.3 + 0.6 * chance.random()
    while len(written) < LONGEST:
        started = time.perf_counter()
        walker.fill(mask)
        masks.append(time.perf_counter() - started)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[:END])
        if bits[END] and (not len(allowed) or chance.random() < 0.3):
            return b"".join(written).decode(errors="replace")
        if not len(allowed):
            return None
        wanted = CLOSING if len(written) > LONGEST / 2 else STRUCTURE
        liked = wanted[bits[wanted] == 1]
        pick = liked if len(liked) and (wanted is CLOSING or chance.random() < taste) else allowed
        token = int(pick[chance.randrange(len(pick))])
        if not walker.accept(token):
            raise ValueError("an allowed token is not accepted")
        written.append(TOKENS[token])
    return None


def measure(name: str, engine: Engine, walks: int) -> dict[str, Any]:
    """Counts and times of one engine over all schemas."""
    compiles: list[float] = []
    masks: list[float] = []
    refused, wrong, finished, broken = [], {}, 0, []
    schemas = {**SCHEMAS, **{f"refused: {key}": schema for key, (schema, _) in REFUSED.items()}}
    for key, schema in schemas.items():
        started = time.perf_counter()
        try:
            engine(schema)
        except ValueError:
            refused.append(key)
            continue
        compiles.append(time.perf_counter() - started)
        for seed in range(walks):
            try:
                text = walk(engine(schema), random.Random(seed), masks)
            except ValueError:
                broken.append(key)
                break
            if text is None:
                continue
            finished += 1
            try:
                found = fault(schema, text)
            except Exception as error:  # noqa: BLE001 - a schema that the judge cannot read
                found = f"{type(error).__name__}: {error}"
            if found:
                wrong.setdefault(key, []).append(found)
    centiles = statistics.quantiles(masks, n=1000)
    return {
        "engine": name,
        "schemas": len(schemas),
        "refused": refused,
        "failed later": sorted(set(broken)),
        "finished": finished,
        "invalid": sum(map(len, wrong.values())),
        "schemas with invalid outputs": {key: texts[0][:160] for key, texts in wrong.items()},
        "compile ms": [round(1e3 * f(compiles), 2) for f in (statistics.median, max)],
        "mask us p50, p99, p99.9": [round(1e6 * centiles[i], 1) for i in (499, 989, 998)],
    }


def main() -> None:
    """Measure every engine that is installed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--walks", type=int, default=20, help="outputs per schema")
    parser.add_argument("--output", type=Path, help="write everything as JSON")
    options = parser.parse_args()
    alone, windlass = llguidance_engines()
    engines = {"xgrammar": xgrammar_engine(), "llguidance": alone, "windlass": windlass}
    results = [measure(name, engine, options.walks) for name, engine in engines.items()]
    for result in results:
        print(json.dumps({**result, "refused": len(result["refused"])}, indent=1))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
