"""A small server that speaks OpenAI's streaming API, says what it is told and keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ScriptedServer:
    """`refusal` answers every POST with 400; `break_off` ends streams in the middle."""

    url: str = ""
    words: tuple[str, ...] = ("one ", "two ", "three")
    refusal: str | None = None
    break_off: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for word in self.words:
            if "messages" in body:
                yield {"choices": [{"index": 0, "delta": {"content": word}}]}
            else:
                yield {"choices": [{"index": 0, "text": word}]}
        prompt_tokens = len(body.get("prompt", ())) or 7
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(self.words)}
        yield {"choices": [], "usage": usage}


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Serve on a free port of this machine."""
    script = ScriptedServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"data": [{"id": "windlass-demo"}]})

        def do_POST(self) -> None:
            script.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            script.keys.append(self.headers.get("authorization"))
            if script.refusal is not None:
                self.answer(400, {"error": {"message": script.refusal}})
                return
            self.send_response(200)
            self.end_headers()
            for chunk in script.chunks(script.bodies[-1]):
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                if script.break_off:
                    return
            self.wfile.write(b": a comment\n\ndata: [DONE]\n\n")

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        script.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            http.shutdown()
            thread.join()
