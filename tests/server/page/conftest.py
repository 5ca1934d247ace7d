"""The page in a real browser, from a real server process with the demo model.

The browser is the Chromium of the system; without one these tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

try:
    from playwright import sync_api
except ImportError:  # the test modules skip themselves
    sync_api = None

KEY = "page-key"
"""An admin key, so that the page shows everything."""
USER_KEY = "user-key"
MODEL = "demo"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable"))), None
)
# Set before the page's own scripts run: the key, and a list of what the policy refused.
PREPARE = """
sessionStorage.setItem("windlass.key", KEY);
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.refused.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


class PageServer:
    """A `windlass serve` process, small enough that requests share, wait and fill its cache."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "windlass.cli", "serve", "--port", "0"]
        named = ["--served-model-name", MODEL, "--admin-api-key", KEY, "--api-key", USER_KEY]
        small = ["--num-blocks", "300", "--max-num-seqs", "4"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [*command, *named, *small],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        found = None
        for line in self.process.stdout:
            found = re.search(r"The page for people: (http://[0-9.:]+/)$", line.rstrip())
            if found:
                break
        assert found, "the server did not start"
        self.url = found[1]
        self.headers = {"Authorization": f"Bearer {KEY}"}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = httpx.get(self.url + "metrics", headers=self.headers, timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith(name + "{")]
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        chosen = [line for line in lines if all(label in line for label in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in chosen)

    @contextmanager
    def load(self, prompts: list[str]) -> Iterator[None]:
        """Keep a request running for every prompt."""
        over = threading.Event()

        def work(prompt: str) -> None:
            body = {"model": MODEL, "prompt": prompt, "max_tokens": 600, "ignore_eos": True}
            with httpx.Client(base_url=self.url, headers=self.headers, timeout=60) as client:
                while not over.is_set():
                    with client.stream(
                        "POST", "v1/completions", json={**body, "stream": True}
                    ) as r:
                        for _ in r.iter_lines():
                            if over.is_set():
                                break

        threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def stop(self) -> int:
        """End the process."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


class Visit:
    """One browser context at the page; `errors` has what its console and scripts complained of."""

    def __init__(self, browser: Any, server: PageServer, key: str, options: dict[str, Any]) -> None:
        self.server = server
        self.errors: list[str] = []
        self.requests: list[Any] = []
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        self.context.add_init_script(PREPARE.replace("KEY", json.dumps(key)))
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._count)
        self.page.goto(server.url)
        if key == KEY:
            self.page.locator("#model option").first.wait_for(state="attached")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _count(self, request: Any) -> None:
        self.requests.append(request)

    def module(self, script: str, name: str, *values: Any) -> Any:
        """Import one of the page's modules as `m` and return what `script` makes of `v`."""
        body = f"async (v) => {{ const m = await import('{self.server.url}ui/{name}'); {script} }}"
        return self.page.evaluate(body, list(values))

    def answer_with(self, *deltas: dict[str, Any], finish: str = "stop") -> list[dict[str, Any]]:
        """Let the browser get this answer to its next chats; the requests' bodies are returned."""
        bodies: list[dict[str, Any]] = []
        chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

        def fulfil(route: Any) -> None:
            bodies.append(route.request.post_data_json)
            route.fulfill(content_type="text/event-stream", body=text)

        self.page.unroute_all()
        self.page.route("**/v1/chat/completions", fulfil)
        return bodies

    def ask(self, text: str) -> Any:
        """Send a message and return the finished answer."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")
        return self.answer()

    def answer(self) -> Any:
        """The last message once it is a finished answer."""
        last = self.page.locator(".message").last
        sync_api.expect(last).to_have_class("message assistant", timeout=30_000)
        return last

    def check(self) -> None:
        """Nothing broke, nothing was refused by the policy, nobody else was asked."""
        assert self.errors == []
        assert self.page.evaluate("window.refused") == []
        own = urlsplit(self.server.url).netloc
        asked = {urlsplit(request.url) for request in self.requests}
        assert {url.netloc for url in asked if url.scheme not in ("blob", "data")} == {own}


MakeVisit = Callable[..., Visit]


@pytest.fixture(scope="session")
def server() -> Iterator[PageServer]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (on Debian: apt install chromium)")
    running = PageServer()
    yield running
    assert running.stop() == 0


# Not for the session: while the driver runs, no other test could run an event loop.
@pytest.fixture(scope="module")
def browser(server: PageServer) -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def visit_with(browser: Any, server: PageServer) -> Iterator[MakeVisit]:
    visits: list[Visit] = []

    def make(key: str = KEY, **options: Any) -> Visit:
        visits.append(Visit(browser, server, key, options))
        return visits[-1]

    yield make
    for visit in visits:
        visit.context.close()


@pytest.fixture
def visit(visit_with: MakeVisit) -> Iterator[Visit]:
    visit = visit_with()
    yield visit
    visit.check()
