"""How a peer is reached: connections that are kept, the environment's proxies and certificates."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from receiver.channels import DeliveryError
from receiver.channels.http import Peer
from tests.databases import free_port
from tests.waiting import until


class Server(ThreadingHTTPServer):
    """Answers every POST with `ok`, and remembers what it was asked and over which connections."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.clients: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int]] = []
        self.closes = False
        self.is_silent = False
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)
        self.ended.append(client_address)  # the connection is closed

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.server.clients.append(self.client_address)
        if self.server.is_silent:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.close_connection = self.server.closes  # without a word of it

    def do_CONNECT(self) -> None:
        self.server.requests.append((self.path, dict(self.headers), b""))
        self.send_error(407)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, which end with the test."""
    started: list[Server] = []

    def start(context: ssl.SSLContext | None = None) -> Server:
        server = Server(context)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer("Slack", seconds=5)
    yield made
    made.close()


def failure(peer: Peer, url: str) -> tuple[str, bool]:
    """What a post fails with, and whether the peer may have taken it."""
    with pytest.raises(DeliveryError) as caught:
        peer.post(url, b"{}", "application/json")
    return str(caught.value), caught.value.uncertain


def test_body_arrives_as_it_is_and_the_connection_is_kept(peer: Peer, serve: Callable[..., Server]) -> None:
    server = serve()
    for body in (b'{"text": "1"}', '{"text": "둘"}'.encode()):
        answer = peer.post(f"http://{server.address}/services/T0?x=1", body, "application/json")
        assert (answer.status, answer.text) == (200, "ok")
    assert [(path, body) for path, _, body in server.requests] == [
        ("/services/T0?x=1", b'{"text": "1"}'),
        ("/services/T0?x=1", '{"text": "둘"}'.encode()),
    ]
    assert {headers["Content-Type"] for _, headers, _ in server.requests} == {"application/json"}
    assert len(set(server.clients)) == 1


def test_connection_that_the_peer_has_closed_meanwhile_is_opened_anew(peer: Peer, serve: Callable[..., Server]) -> None:
    server = serve()
    server.closes = True
    for number in range(2):
        assert peer.post(f"http://{server.address}/", b"{}", "application/json").text == "ok"
        until(lambda: len(server.ended) > number, "the connection is closed")  # noqa: B023 - called at once
    assert len(set(server.clients)) == 2


def test_proxy_of_the_environment_is_asked_for_the_whole_address(
    peer: Peer, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve()
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    assert peer.post("http://hooks.example.com/services/T0", b"{}", "application/json").text == "ok"
    ((path, headers, _),) = proxy.requests
    assert (path, headers["Host"]) == ("http://hooks.example.com/services/T0", "hooks.example.com")


def test_who_needs_no_proxy_is_asked_directly(
    peer: Peer, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert peer.post(f"http://{server.address}/", b"{}", "application/json").text == "ok"


def test_proxy_that_is_not_there_has_taken_nothing(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    for scheme in ("http", "https"):
        assert failure(peer, f"{scheme}://hooks.example.com/T0") == ("Slack could not be reached by the proxy", False)


def test_proxy_that_refuses_has_handed_nothing_on(
    peer: Peer, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    assert failure(peer, "https://hooks.example.com/T0") == ("Slack could not be reached by the proxy", False)
    assert [path for path, _, _ in proxy.requests] == ["hooks.example.com:443"]


@pytest.mark.parametrize("proxied", [True, False])
def test_who_hangs_up_after_the_request_may_have_taken_it(
    peer: Peer, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, *, proxied: bool
) -> None:
    server = serve()
    server.is_silent = True
    if proxied:
        monkeypatch.setenv("HTTP_PROXY", f"http://{server.address}")
    address = "hooks.example.com" if proxied else server.address
    assert failure(peer, f"http://{address}/T0") == ("Slack closed the connection without an answer", True)
    assert len(server.requests) == 1


def test_nothing_stays_open_after_the_close(serve: Callable[..., Server]) -> None:
    server, peer = serve(), Peer("Slack", seconds=5)
    peer.post(f"http://{server.address}/", b"{}", "application/json")
    assert server.ended == []
    peer.close()
    until(lambda: server.ended == server.clients, "the connection is closed")


def test_address_that_is_none_has_taken_nothing(peer: Peer) -> None:
    words = "the address of Slack or of the proxy cannot be used"
    assert failure(peer, "https://hooks..example.com/T0") == (words, False)


def test_certificates_that_are_not_there_are_told(peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    words = "the certificates to know Slack by are not where they should be"
    assert failure(peer, f"https://127.0.0.1:{free_port()}/T0") == (words, False)


def test_proxy_whose_address_is_none_is_named(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://")
    words = "the address of Slack or of the proxy cannot be used"
    assert failure(peer, "http://hooks.example.com/T0") == (words, False)


def test_nobody_listens(peer: Peer) -> None:
    assert failure(peer, f"http://127.0.0.1:{free_port()}/T0") == ("Slack could not be reached", False)


def test_certificates_of_the_environment_are_trusted_and_no_others(
    peer: Peer,
    serve: Callable[..., Server],
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = serve(context)
    assert failure(peer, f"https://{server.address}/T0") == ("Slack's certificate was refused", False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    trusting = Peer("Slack", seconds=5)
    assert trusting.post(f"https://{server.address}/T0", b"{}", "application/json").text == "ok"
    trusting.close()


def test_no_credential_of_a_netrc_file_goes_along(
    peer: Peer, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password example\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    peer.post(f"http://{server.address}/", b"{}", "application/json")
    ((_, headers, _),) = server.requests
    assert "Authorization" not in headers
