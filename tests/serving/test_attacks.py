"""Attacks on both real programs: none hangs a worker, and none keeps other clients from being served."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.sandbox import Options, Sandbox
from serving.protocol import CONNECTIONS, allow_files
from tests.programs import program
from tests.serving.authority import Authority, web_file
from tests.serving.hostile import HOST, Target, running, statuses
from tests.waiting import until

BOTH = ("exporter", "receiver")
HEALTHY = b"GET /-/healthy HTTP/1.1\r\n" + HOST + b"\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /-/healthy HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module", params=BOTH)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """With its real limits."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture(scope="module", params=BOTH)
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Waits a second for a client, rather than half a minute."""
    quick = {"QUICK_REQUEST_SECONDS": "1", "QUICK_ANSWER_SECONDS": "1"}
    with running(request.param, tmp_path_factory.mktemp(request.param), **quick) as started:
        yield started


@pytest.fixture(scope="module", params=BOTH)
def hasty_tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The same by TLS."""
    folder = tmp_path_factory.mktemp(request.param)
    file = web_file(folder, Authority(folder, "ours"))
    names = ("QUICK_REQUEST_SECONDS", "QUICK_ANSWER_SECONDS", "QUICK_HANDSHAKE_SECONDS")
    with running(request.param, folder, f"--web.config.file={file}", **dict.fromkeys(names, "1")) as started:
        yield started


def ended_by_server(connection: socket.socket) -> bool:
    """Whether it was closed or reset; raises TimeoutError where it stays open."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


@pytest.mark.parametrize(
    "piece",
    [b"", b"\r\n", b"GET / HTTP/1.1\r\nX-", (b"POST /webhook HTTP/1.1\r\nContent-Type: application/json\r\n"
     b"Content-Length: 1000\r\n\r\n{"), b"POST /webhook HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n5"],
    ids=["nothing", "empty line", "head", "body", "chunk"],
)  # fmt: skip
def test_a_request_that_never_ends_is_cut_off_while_others_are_served(hasty: Target, piece: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(piece)
        assert hasty.serves_others()
        assert ended_by_server(connection)


def test_bytes_that_drip_do_not_lengthen_the_time(hasty: Target) -> None:
    with hasty.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        began = time.monotonic()
        connection.settimeout(0.1)
        while time.monotonic() - began < 20:
            connection.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                if connection.recv(1) == b"":
                    break
        assert time.monotonic() - began < 20


def test_an_empty_line_after_an_answer_does_not_keep_the_connection(hasty: Target) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEALTHY)
        until(lambda: b"Healthy\n" in connection.recv(65536), "it is answered")
        connection.sendall(b"\r\n")
        assert ended_by_server(connection)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [(HEALTHY, [200]), (METRICS, [200]), (METRICS * 2 + HEALTHY, [200, 200, 200]), (METRICS + METRICS[:10], [200])],
    ids=["at once", "in time", "several", "and half of one"],
)
def test_who_says_that_he_sends_no_more_is_answered(target: Target, asked: bytes, answered: list[int]) -> None:
    with target.connect() as connection:
        connection.sendall(asked)
        connection.shutdown(socket.SHUT_WR)  # as nc -N does
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert statuses(received) == answered


def test_an_answer_that_nobody_reads_is_given_up(hasty: Target) -> None:
    with hasty.connect(receive_buffer=4096) as connection:
        connection.sendall(METRICS * 1000)  # some 10 MB to read, more than any buffer on the way holds
        assert hasty.serves_others()
        until(lambda: hasty.open_connections() == 0, "it is gone")
    assert 'reason="answer read too slowly"' in hasty.log()


@pytest.mark.parametrize(
    "piece",
    [b"", b"GET /metrics HTTP/1.1\r\nX-", (b"POST /webhook HTTP/1.1\r\nContent-Type: application/json\r\n"
     b"Content-Length: 1000\r\n\r\n{"), HEALTHY],
    ids=["idle", "half a head", "half a body", "answered"],
)  # fmt: skip
def test_too_many_connections_make_room_for_others(target: Target, piece: bytes) -> None:
    allow_files()
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 100):
            connection = stack.enter_context(target.connect())
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
        assert all(target.serves_others() for _ in range(5))
        until(lambda: target.serves_others() and target.open_connections() <= CONNECTIONS, "the rest made room", 20)
    until(lambda: target.open_connections() == 0, "all are gone", 60)


def test_a_burst_of_callers_is_answered_whole(target: Target) -> None:
    allow_files()
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(target.connect()) for _ in range(2 * CONNECTIONS)]
        for caller in callers:
            caller.sendall(LAST)
        assert {caller.recv(12) for caller in callers} == {b"HTTP/1.1 200"}


def test_a_tls_handshake_that_does_not_begin_is_cut_off_however_many_there_are(hasty_tls: Target) -> None:
    allow_files()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", hasty_tls.port), timeout=20))
            for _ in range(2 * CONNECTIONS)
        ]
        assert all(hasty_tls.serves_others() for _ in range(5))
        assert all(ended_by_server(connection) for connection in silent)


def test_a_request_by_tls_that_never_ends_is_cut_off(hasty_tls: Target) -> None:
    with hasty_tls.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-")
        assert hasty_tls.serves_others()
        assert ended_by_server(connection)


def test_an_answer_by_tls_that_nobody_reads_is_given_up(hasty_tls: Target) -> None:
    with hasty_tls.connect(receive_buffer=4096) as connection:
        connection.sendall(METRICS * 1000)
        assert hasty_tls.serves_others()
        until(lambda: hasty_tls.open_connections() == 0, "it is gone", 60)


def test_an_answer_that_is_read_in_drops_is_given_up(hasty: Target) -> None:
    with hasty.connect(receive_buffer=4096) as connection:
        connection.sendall(METRICS * 1000)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while hasty.open_connections():
                connection.recv(1000)
                assert time.monotonic() - began < 60
                time.sleep(0.1)
    assert hasty.serves_others()


def test_too_many_that_read_nothing_make_room_for_others(target: Target) -> None:
    allow_files()
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 20):
            connection = stack.enter_context(target.connect(receive_buffer=4096))
            with contextlib.suppress(ConnectionError):
                connection.sendall(METRICS * 20)
        assert all(target.serves_others() for _ in range(5))
    until(lambda: target.open_connections() == 0, "all are gone", 60)


@pytest.mark.parametrize(
    "after_the_line",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 9\r\n\r\nabcd",
        b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        b"Content-Length: +4\r\n\r\nabcd",
        b"Content-Length: 0x4\r\n\r\nabcd",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nabcd",
        b"X-Folded: a\r\n Transfer-Encoding: chunked\r\n\r\n",
        b"X-Ended-by-LF: a\nTransfer-Encoding: chunked\r\n\r\n",
        b"X-Ended-by-CR: a\rTransfer-Encoding: chunked\r\n\r\n",
        b"X-Nul: a\0b\r\n\r\n",
        b"No colon\r\n\r\n",
    ],
    ids=lambda text: text.partition(b"\r\n\r\n")[0].decode().replace("\r\n", ";"),
)  # fmt: skip
def test_a_request_of_unclear_length_is_refused_and_nothing_after_it_is_obeyed(
    target: Target, after_the_line: bytes
) -> None:
    smuggled = b"POST /-/reload HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"
    received = target.ask(b"POST /webhook HTTP/1.1\r\n" + HOST + after_the_line + smuggled)
    assert statuses(received) == [400]
    assert "configuration read again" not in target.log()


def test_a_request_in_anothers_body_is_no_request(target: Target) -> None:
    smuggled = b"POST /-/reload HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(smuggled)
    received = target.ask(b"POST /-/healthy HTTP/1.1\r\n" + HOST + length + smuggled + LAST)
    assert statuses(received) == [405, 200]
    assert "configuration read again" not in target.log()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
        (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", [405]),
        (b"GET /-/healthy HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", [200]),
        (b"GET /-/healthy HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [200]),
        (b"GET http://evil.example/-/healthy HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", [200]),
    ],
    ids=["TLS to a plain port", "HTTP/2", "CONNECT", "not ASCII", "TRACE", "WebSocket", "h2c", "absolute address"],
)  # fmt: skip
def test_another_protocol_is_answered_in_this_one(target: Target, raw: bytes, expected: list[int]) -> None:
    assert statuses(target.ask(raw)) == expected
    assert target.serves_others()


def test_many_requests_at_once_on_a_connection_are_answered_in_their_order(target: Target) -> None:
    healthy = [HEALTHY, b"GET /static/none HTTP/1.1\r\n" + HOST + b"\r\n"] * 50
    assert statuses(target.ask(b"".join(healthy) + LAST)) == [200, 404] * 50 + [200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(10_000)),
    ],
    ids=["address", "header", "headers"],
)
def test_a_head_that_is_too_long_is_cut_off(target: Target, head: bytes) -> None:
    assert statuses(target.ask(head)) == []
    assert 'reason="head too long"' in target.log()


@pytest.mark.parametrize(
    "tail",
    [b"5;" + b"a" * 100_000, b"0\r\nX-Trailer: " + b"a" * 100_000, b"0\r\n" + b"X-Trailer: a\r\n" * 10_000],
    ids=["of a chunk", "a trailer", "trailers"],
)
def test_what_frames_a_body_is_limited_like_a_head(target: Target, tail: bytes) -> None:
    head = b"POST /webhook HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + HOST
    with target.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head + b"\r\n1\r\n{\r\n")
        for _ in range(50):
            connection.sendall(tail)
        assert ended_by_server(connection)
    assert 'reason="head too long"' in target.log()


@pytest.mark.parametrize("path", ["/", "/-/reload", "/metrics", "/static/none", "/webhook"])
def test_a_body_where_none_is_wanted_fills_no_memory(target: Target, path: str) -> None:
    before = psutil.Process(target.popen.pid).memory_info().rss
    head = b"DELETE %s HTTP/1.1\r\n" % path.encode() + HOST + b"Content-Length: 100000000\r\n\r\n"
    with target.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head)
        for _ in range(1000):
            connection.sendall(b" " * 100_000)
    assert psutil.Process(target.popen.pid).memory_info().rss - before < 32 * 2**20
    assert target.serves_others()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../__main__.py",
        "/static/%2e%2e/__main__.py",
        "/static/..%2f__main__.py",
        "/static/..%5c__main__.py",
        "/static/....//__main__.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/%00",
        "/static/%ff",
        "/static/" + "a" * 5000,
        "/static/",
        "/../../etc/passwd",
    ],
)
def test_nothing_but_the_pages_own_files_is_served(target: Target, path: str) -> None:
    received = target.ask(b"GET %s HTTP/1.1\r\n" % path.encode() + HOST + b"Connection: close\r\n\r\n")
    assert statuses(received) == [404]


ORDINARY = (
    b"GET /metrics HTTP/1.1\r\n" + HOST + b"Accept: text/plain\r\nAccept-Encoding: gzip;q=0.5\r\n\r\n",
    b"GET /static/exporter.css HTTP/1.1\r\n" + HOST + b'Range: bytes=0-5,7-9\r\nIf-None-Match: "x"\r\n\r\n',
    b"GET /api/v1/monitoring/metrics?period_hours=24 HTTP/1.1\r\n" + HOST + b'If-None-Match: W/"x"\r\n\r\n',
    b"GET /api/v1/notifications?limit=5&before=3&status=firing HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /webhook HTTP/1.1\r\n" + HOST + b'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"a": [1,2]}',
    b"POST /webhook HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n',
)
ODD = (
    b"\0", b"\r\n", b"\n", b"\r", b" ", b"\xff", b"%00", b"%2e%2e/", b"99999999999999999999", b"-1", b":", b"[", b"NaN",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"Expect: 100-continue\r\n", b"\xe2\x80\xa8", b"1e999", b"HTTP/1.0",
)  # fmt: skip


def broken(chance: random.Random) -> bytes:
    """A request with a few bytes too many, too few, or other ones."""
    request = bytearray(chance.choice(ORDINARY))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(request) + 1)
        change = chance.choice(("more", "more", "fewer", "other"))
        if change == "more":
            request[place:place] = chance.choice(ODD)
        elif change == "fewer":
            del request[place : place + chance.randint(1, 8)]
        else:
            request[place : place + 1] = bytes([chance.randrange(256)])
    return bytes(request)


def test_broken_requests_are_no_fault_of_the_servers(target: Target) -> None:
    chance = random.Random(7)
    found: set[int] = set()
    for _ in range(1000):
        with target.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(broken(chance))
            connection.settimeout(0.02)
            found.update(statuses(connection.recv(200)))
    assert {200, 400, 404} <= found
    assert [status for status in found if status >= 500] == []
    assert target.serves_others()


def test_an_upload_by_curl_at_ten_bytes_a_second_is_cut_off(hasty: Target, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b" " * 10_000_000)
    slow = ("--limit-rate", "10", "--max-time", "60", "--data-binary", f"@{body}")
    done = subprocess.run(
        [program("curl"), "--silent", *slow, "-H", "Content-Type: application/json", hasty.url("/webhook")],
        capture_output=True,
        check=False,
    )
    # the exporter has no such door, and says so at once; the receiver ends it before curl would (28)
    assert done.returncode in {"exporter": {0, 55, 56}, "receiver": {52, 55, 56}}[hasty.name]
    assert hasty.serves_others()


def test_a_page_runs_nothing_of_its_own_and_takes_nothing_from_elsewhere(target: Target) -> None:
    answer = httpx.get(target.url("/"))
    assert answer.status_code == 200
    assert "</html>" in answer.text
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", answer.text) == []
    taken = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)=[\"']?([^\"' >]+)", answer.text)
    assert taken
    assert [address for address in taken if not re.match(r"/?static/|data:", address)] == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/static/none", "/none"])
def test_every_answer_carries_the_security_headers(target: Target, path: str) -> None:
    headers = httpx.get(target.url(path)).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert set(headers.get_list("referrer-policy")) == {"no-referrer"}
    assert set(headers.get_list("x-content-type-options")) == {"nosniff"}
    assert "server" not in headers


def curl(*arguments: str) -> tuple[int, str]:
    """Status and headers of what curl gets."""
    done = subprocess.run(
        [program("curl"), "--silent", "--dump-header", "-", "--output", os.devnull, "--max-time", "20", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[1]), done.stdout.lower()


def test_no_page_of_another_site_may_read_anything(target: Target) -> None:
    for path in ("/", "/metrics", "/api/v1/monitoring/health", "/api/v1/notifications"):
        _, headers = curl(target.url(path), "-H", "Origin: https://evil.example")
        assert "access-control-" not in headers
    asked = ("-X", "OPTIONS", "-H", "Origin: https://evil.example", "-H", "Access-Control-Request-Method: POST")
    for path in ("/webhook", "/-/reload", "/api/v1/monitoring/notify", "/api/v1/monitoring/health"):
        status, headers = curl(target.url(path), *asked)
        assert status in {404, 405}, path  # each has but some of the paths
        assert "access-control-" not in headers


# A browser says Sec-Fetch-Site to addresses that it trusts alone (https, localhost), Origin with every POST.
@pytest.mark.parametrize(
    "header",
    ["Sec-Fetch-Site: cross-site", "Origin: http://evil.example", "Origin: http://127.0.0.1:1", "Origin: null"],
)
def test_no_page_of_another_site_has_the_settings_read_again(target: Target, header: str) -> None:
    status, _ = curl(target.url("/-/reload"), "-X", "POST", "-H", header)
    assert status == 403
    assert "configuration read again" not in target.log()


@pytest.mark.parametrize("header", ["Sec-Fetch-Site: cross-site", "Origin: http://evil.example", "Origin: null"])
def test_no_page_of_another_site_has_a_delivery_tried_again(telling: tuple[Target, Sandbox], header: str) -> None:
    receiver, _ = telling
    status, _ = curl(receiver.url("/api/v1/deliveries/1/retry"), "-X", "POST", "-H", header)
    assert status == 403


def test_a_page_of_the_same_site_is_no_other(target: Target) -> None:
    own = f"Origin: http://127.0.0.1:{target.port}"
    assert curl(target.url("/-/reload"), "-X", "POST", "-H", own)[0] == 200


TESTS = [
    ("GET", "test/slack"),
    ("GET", "test/email?to_email=a@example.com"),
    ("POST", "test/alert"),
    ("POST", "notify"),
]


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Sandbox]]:
    """A receiver that could tell somebody."""
    with Sandbox(Options(slack_rate=0)) as sandbox:
        host, port = sandbox.smtp
        settings = {
            "SLACK_WEBHOOK_URL": sandbox.slack_webhook_url,
            "SMTP_HOST": host,
            "SMTP_PORT": str(port),
            "SMTP_TLS": "none",
            "SMTP_FROM": "noreply@example.com",
            "ALERT_EMAIL_TO": "duty@example.com",
        }
        with running("receiver", tmp_path_factory.mktemp("telling"), **settings) as receiver:
            yield receiver, sandbox


@pytest.mark.parametrize(("method", "path"), TESTS)
@pytest.mark.parametrize(
    "header",
    [
        "Host: monitor.example",
        "Host: localhost.evil.example",
        "Host: 127.0.0.1.evil.example",
        "Host: localhost@evil.example",
        "Host: evil.example#localhost",
        "Host:",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Origin: http://evil.example",
        "Origin: null",
        "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1",
    ],
)
def test_no_trick_with_a_header_has_somebody_told(
    telling: tuple[Target, Sandbox], method: str, path: str, header: str
) -> None:
    receiver, sandbox = telling
    body = '{"title": "t", "message": "m", "level": "warning", "channels": ["slack"]}'
    more = ("-H", "Content-Type: application/json", "-d", body) if path == "notify" else ()
    status, _ = curl(receiver.url(f"/api/v1/monitoring/{path}"), "-X", method, *more, "-H", header)
    assert status == 403
    assert sandbox.messages("slack") + sandbox.messages("smtp") == []


def test_without_a_trick_somebody_is_told(telling: tuple[Target, Sandbox]) -> None:
    receiver, sandbox = telling
    assert curl(receiver.url("/api/v1/monitoring/test/slack"))[0] == 200
    assert len(sandbox.messages("slack")) == 1
    sandbox.clear()
