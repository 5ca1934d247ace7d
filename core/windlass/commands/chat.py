"""`windlass chat`: talk in the terminal with a running server, or with an engine of its own."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from windlass.errors import RequestError

if TYPE_CHECKING:
    from windlass.commands.chat_partner import ChatPartner, Message

HELP = "chat in the terminal, with a running server or with a model of your choice"

_PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass chat`, and those of the engine."""
    from windlass.arguments import add_engine_arguments

    group = parser.add_argument_group("conversation")
    group.add_argument("--url", help="address of a running server (default: start an engine here)")
    group.add_argument("--api-key", help="key for the server")
    group.add_argument("--model-name", help="model of the server (default: its first)")
    group.add_argument("--system-prompt", help="text that sets the model's behaviour")
    group.add_argument("-q", "--question", help="ask this, print the answer and leave")
    group.add_argument("--max-tokens", type=int, help="longest answer (default: the context)")
    group.add_argument("--temperature", type=float, help="0 is greedy (default: the model's)")
    group.add_argument("--stats", action="store_true", help="tell tokens and times of answers")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer one question, or talk until the end of the input (Ctrl-D)."""
    messages: list[Message] = []
    if args.system_prompt:
        messages.append({"role": "system", "content": args.system_prompt})
    with _partner(args) as partner:
        if args.question:
            _answer(partner, messages, args.question, stats=args.stats)
        else:
            _talk(partner, messages, stats=args.stats)
    return 0


def _partner(args: argparse.Namespace) -> ChatPartner:
    if args.url:
        from windlass.commands.chat_server import ServerPartner

        return ServerPartner(
            args.url,
            api_key=args.api_key,
            model=args.model_name,
            max_tokens=args.max_tokens,
            temperature=args.temperature,
        )
    from windlass.arguments import engine_config
    from windlass.commands.chat_engine import EnginePartner

    return EnginePartner(
        engine_config(args), max_tokens=args.max_tokens, temperature=args.temperature
    )


def _talk(partner: ChatPartner, messages: list[Message], *, stats: bool) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  # input() then knows arrows and history

        print(f"Chatting with {partner.name}. Ctrl-C stops an answer, Ctrl-D leaves.")
    while True:
        try:
            question = input(_PROMPT if interactive else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            print()
            continue
        if not question.strip():
            continue
        try:
            _answer(partner, messages, question, stats=stats)
        except RequestError as error:
            print(f"windlass: {error}", file=sys.stderr)
    if interactive:
        print()


def _answer(partner: ChatPartner, messages: list[Message], question: str, *, stats: bool) -> None:
    """Print the answer as it comes; the conversation grows by it unless it is refused."""
    asked: Message = {"role": "user", "content": question}
    pieces: list[str] = []
    answer = partner.answer([*messages, asked])
    try:
        for piece in answer:
            pieces.append(piece)
            print(piece, end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", flush=True)
    finally:
        answer.close()
    messages += [asked, {"role": "assistant", "content": "".join(pieces)}]
    if stats:
        print(partner.times.describe(), file=sys.stderr)
