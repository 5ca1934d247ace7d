"""TLS on a real server: who is let in, what a wrong file says, and certificates that change."""

from __future__ import annotations

import asyncio
import datetime
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx
import openai
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from make_settings import make_settings
from serve_process import MODEL, ServeProcess, wait_for
from starlette.types import Receive, Scope, Send

from windlass.cli import main
from windlass_server.http_protocol import CHUNKS
from windlass_server.lifecycle import HttpServer, http_server, listen
from windlass_server.operations.settings import OperationsSettings
from windlass_server.operations.tls import Tls, TlsSettings

QUESTION: Any = [{"role": "user", "content": "Hello! Who are you?"}]


class Files:
    """An authority, and what it signs, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = str(folder / "cert.pem"), str(folder / "key.pem")
        self.renew()

    def renew(self, **change: Any) -> None:
        """Write a new certificate and key over the old ones."""
        made = self.authority.issue_cert("127.0.0.1", "localhost", **change)
        made.private_key_pem.write_to_path(self.key)
        Path(self.cert).write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))

    def trusting(self, client: bool = False) -> ssl.SSLContext:
        """What a client needs, with a certificate of its own or without."""
        context = ssl.create_default_context(cafile=self.ca)
        if client:
            self.authority.issue_cert("client").configure_cert(context)
        return context

    def encrypted_key(self) -> str:
        """The key under the password `pw`."""
        key = serialization.load_pem_private_key(Path(self.key).read_bytes(), None)
        path = self.folder / "encrypted.pem"
        secret = serialization.BestAvailableEncryption(b"pw")
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
        return str(path)

    def written(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(shared: Files) -> Iterator[ServeProcess]:
    flags = ["--ssl-certfile", shared.cert, "--ssl-keyfile", shared.key]
    with ServeProcess(*flags) as process:
        yield process


def serial(url: str, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection gets."""
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=address.hostname) as secure,
    ):
        assert secure.selected_alpn_protocol() in (None, "http/1.1")
        return int(secure.getpeercert()["serialNumber"], 16)  # type: ignore[index, arg-type]


def test_openais_client_streams_over_tls(server: ServeProcess, shared: Files) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    http = httpx.Client(verify=shared.trusting())
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as client:
        whole = client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=200
        )
        events = client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=200, stream=True
        )
        text = "".join(event.choices[0].delta.content or "" for event in events)
    assert len(text) > 10
    assert text == whole.choices[0].message.content


def test_plain_http_and_old_tls_find_no_door(server: ServeProcess, shared: Files) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https", "http") + "/health")
    old = shared.trusting()
    old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/health", verify=old)
    assert httpx.get(f"{server.url}/health", verify=shared.trusting()).status_code == 200


def test_a_hangup_brings_the_new_certificate_and_keeps_the_old_one_where_that_is_wrong(
    server: ServeProcess, shared: Files
) -> None:
    context = shared.trusting()
    before = serial(server.url, context)
    with httpx.Client(base_url=server.url, verify=context) as client:
        assert client.get("/health").status_code == 200
        shared.renew()
        assert serial(server.url, context) == before
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: serial(server.url, context) != before)
        after = serial(server.url, context)
        Path(shared.key).write_text("gone")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("stays as it was" in line for line in server.log))
        assert serial(server.url, context) == after
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("required", [1, 2])
def test_clients_show_a_certificate_of_the_authority(files: Files, required: int) -> None:
    flags = ["--ssl-certfile", files.cert, "--ssl-keyfile", files.key]
    flags += ["--ssl-ca-certs", files.ca, "--ssl-cert-reqs", str(required)]
    with ServeProcess(*flags) as server:
        url = f"{server.url}/health"
        assert httpx.get(url, verify=files.trusting(client=True)).status_code == 200
        stranger = files.trusting()
        trustme.CA().issue_cert("client").configure_cert(stranger)
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=stranger)
        if required == 2:
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=files.trusting())
        else:
            assert httpx.get(url, verify=files.trusting()).status_code == 200


def test_tls_works_on_a_unix_socket(files: Files) -> None:
    path = str(files.folder / "socket")
    password = files.written("password", "pw\n")
    flags = ["--uds", path, "--ssl-certfile", files.cert, "--ssl-keyfile", files.encrypted_key()]
    with ServeProcess(*flags, "--ssl-keyfile-password-file", password) as server:
        assert server.url == "https://localhost"
        transport = httpx.HTTPTransport(uds=path, verify=files.trusting())
        with httpx.Client(transport=transport) as client:
            assert client.get(f"{server.url}/health").status_code == 200
    assert not Path(path).exists()


Flags = Callable[[Files], list[str]]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (lambda f: ["--ssl-keyfile", f.key], "--ssl-keyfile needs --ssl-certfile"),
        (lambda f: ["--ssl-certfile", f.cert], "no usable key"),
        (
            lambda f: ["--ssl-certfile", "/none", "--ssl-keyfile", f.key],
            "--ssl-certfile /none cannot be read: No such file",
        ),
        (
            lambda f: ["--ssl-certfile", f.cert, "--ssl-keyfile", "/none"],
            "--ssl-keyfile /none cannot be read: No such file",
        ),
        (
            lambda f: ["--ssl-certfile", f.ca, "--ssl-keyfile", f.key],
            "the key does not belong to the certificate",
        ),
        (
            lambda f: ["--ssl-certfile", f.written("text", "x"), "--ssl-keyfile", f.key],
            "it is no certificate in PEM format",
        ),
        (
            lambda f: ["--ssl-certfile", f.cert, "--ssl-keyfile", f.encrypted_key()],
            "the key is encrypted: give --ssl-keyfile-password-file",
        ),
        (
            lambda f: [
                *("--ssl-certfile", f.cert, "--ssl-keyfile", f.encrypted_key()),
                *("--ssl-keyfile-password-file", f.written("password", "wrong")),
            ],
            "the password does not open the key",
        ),
        (
            lambda f: [
                *("--ssl-certfile", f.cert, "--ssl-keyfile", f.key, "--ssl-cert-reqs", "2"),
                *("--ssl-ca-certs", f.written("text", "x")),
            ],
            "holds no certificate in PEM format",
        ),
        (
            lambda f: ["--ssl-certfile", f.cert, "--ssl-keyfile", f.key, "--ssl-cert-reqs", "2"],
            "--ssl-cert-reqs 2 needs --ssl-ca-certs",
        ),
        (
            lambda f: ["--ssl-certfile", f.cert, "--ssl-keyfile", f.key, "--ssl-ca-certs", f.ca],
            "checks nobody without --ssl-cert-reqs",
        ),
    ],
)
def test_wrong_files_stop_the_start_and_are_named(
    files: Files, flags: Flags, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *flags(files)]) != 0
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("days", "told"), [(-1, "expired on"), (1, "")])
def test_a_certificate_that_expired_is_a_warning(
    files: Files, caplog: pytest.LogCaptureFixture, days: int, told: str
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    files.renew(not_after=now + datetime.timedelta(days=days))
    tls = Tls(TlsSettings(certfile=files.cert, keyfile=files.key))
    with caplog.at_level(logging.WARNING):
        tls.warn_of_dates()
    assert bool(caplog.records) is bool(told)
    assert told in caplog.text


PIECE = b"x" * 65536


class Pieces:
    """An application that streams `count` pieces by the short way past h11."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.written = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        chunks = scope["extensions"][CHUNKS]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        try:
            for _ in range(self.count):
                await chunks.write(PIECE)
                self.written += 1
                await asyncio.sleep(0)  # as between two steps: what was written leaves
            chunks.flush()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.ended.set()


@asynccontextmanager
async def answering(
    app: Pieces, files: Files, write_timeout: float
) -> AsyncIterator[tuple[asyncio.StreamReader, HttpServer]]:
    """A connection on which `app` answers, both of whose ends buffer little."""
    tls = TlsSettings(certfile=files.cert, keyfile=files.key)
    settings = make_settings(
        port=0,
        write_timeout=write_timeout,
        operations=OperationsSettings(tls=tls),
    )
    server, sock = http_server(app, settings), listen(settings)  # type: ignore[arg-type]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, sock.getsockname())
    reader, writer = await asyncio.open_connection(
        sock=client, ssl=files.trusting(), server_hostname="127.0.0.1", limit=16384
    )
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    try:
        yield reader, server
    finally:
        writer.transport.abort()
        server.should_exit = True
        await serving


@pytest.mark.anyio
async def test_a_slow_reader_over_tls_gets_all_of_a_stream(files: Files) -> None:
    """Its pace empties the buffers later than a reader may stall, but it reads."""
    app = Pieces(28)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    received = 0
    async with answering(app, files, write_timeout=0.5) as (reader, _):
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                await asyncio.sleep(0.03)
                parser.receive_data(await reader.read(16384))
            elif isinstance(event, h11.Data):
                received += len(event.data)
    assert received == app.count * len(PIECE)


@pytest.mark.anyio
async def test_a_reader_that_stalls_over_tls_is_cut_off(files: Files) -> None:
    app = Pieces(1000)
    async with answering(app, files, write_timeout=2.0) as (_, server), asyncio.timeout(20):
        written = -1
        while app.written != written:
            written = app.written
            await asyncio.sleep(0.2)
        assert 0 < written < 100
        while server.server_state.connections:
            await asyncio.sleep(0.01)
