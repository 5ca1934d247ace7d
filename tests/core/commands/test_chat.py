"""`windlass chat` with a server, and with an engine of its own."""

from __future__ import annotations

import io
from collections.abc import Generator

import pytest
from scripted_server import ScriptedServer

from windlass.cli import main
from windlass.commands.chat_server import ServerPartner
from windlass.errors import EngineError


def test_one_question_is_answered(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--url", f"{server.url}/v1/", "--api-key", "secret", "--max-tokens", "5"]
    assert main(["chat", *arguments, "--system-prompt", "Be brief.", "-q", "Count!"]) == 0
    assert capsys.readouterr().out == "one two three\n"
    assert server.keys == ["Bearer secret"]
    body = server.bodies[0]
    assert body["model"] == "windlass-demo"
    assert body["max_tokens"] == 5
    assert "temperature" not in body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Count!"},
    ]


def test_a_conversation_grows_until_the_input_ends(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Count!\n\nAgain!\n"))
    assert main(["chat", "--url", server.url]) == 0
    assert capsys.readouterr().out == "one two three\none two three\n"
    assert [message["content"] for message in server.bodies[1]["messages"]] == [
        "Count!",
        "one two three",
        "Again!",
    ]


def test_stats_tell_the_servers_count_of_tokens(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.words = ("one two three",)
    server.words += ("",) * 4
    assert main(["chat", "--url", server.url, "-q", "Count!", "--stats"]) == 0
    assert capsys.readouterr().err.startswith("5 tokens, first after ")


def test_ctrl_c_stops_the_answer_and_keeps_what_came(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ServerPartner.answer
    interrupted: list[bool] = []

    def until_interrupted(self: ServerPartner, messages: list[dict[str, str]]) -> Generator[str]:
        for piece in whole(self, messages):
            yield piece
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt

    monkeypatch.setattr(ServerPartner, "answer", until_interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("Count!\nAgain!\n"))
    assert main(["chat", "--url", server.url]) == 0
    assert capsys.readouterr().out == "one  [stopped]\none two three\n"
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "one "}


def test_a_refused_question_does_not_end_the_conversation(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusal = "the prompt is too long"
    monkeypatch.setattr("sys.stdin", io.StringIO("Count!\nAgain!\n"))
    assert main(["chat", "--url", server.url]) == 0
    assert capsys.readouterr().err.count("the prompt is too long") == 2
    assert len(server.bodies[1]["messages"]) == 1


def test_a_refused_single_question_is_a_failure(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusal = "no"
    assert main(["chat", "--url", server.url, "-q", "Count!"]) == 1
    assert capsys.readouterr().err == "windlass: error: the server answered 400: no\n"


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match=r"http://127.0.0.1:1 cannot be reached"):
        ServerPartner("http://127.0.0.1:1")


def test_without_a_url_an_engine_answers(capsys: pytest.CaptureFixture[str]) -> None:
    question = ["-q", "What is Windlass?", "--temperature", "0", "--stats"]
    assert main(["chat", *question, "--num-blocks", "64"]) == 0
    captured = capsys.readouterr()
    assert "engine" in captured.out
    assert " tokens, first after " in captured.err
