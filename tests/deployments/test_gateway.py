"""The gateway puts the guide's API, the runbooks and the firm's own backend behind one address."""

from __future__ import annotations

import base64
import json
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from deploy.demo.sandbox import Options, Sandbox
from tests.databases import SQLite
from tests.deployments.gateway import DEPLOY, GUIDE_CURLS, Gateway, StandIn, running_gateway
from tests.e2e.chain import Chain
from tests.programs import program

API = "/api/v1/monitoring"
RECEIVERS = ("notify", "test/email", "test/slack", "test/alert")
FORWARDED = {"x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded"}


@dataclass(frozen=True)
class Behind:
    """The gateway and the stand-ins behind it."""

    gateway: Gateway
    exporter: StandIn
    receiver: StandIn
    backend: StandIn

    def url(self, path: str) -> str:
        return f"http://localhost:{self.gateway.port}{path}"

    def tls_url(self, path: str) -> str:
        return f"https://localhost:{self.gateway.tls_port}{path}"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with ExitStack() as stack:
        stand_ins = [stack.enter_context(StandIn(name).running()) for name in ("exporter", "receiver", "backend")]
        exporter, receiver, backend = stand_ins
        gateway = stack.enter_context(
            running_gateway(
                tmp_path_factory.mktemp("gateway"), exporter=exporter.port, receiver=receiver.port, backend=backend.port
            )
        )
        yield Behind(gateway, exporter, receiver, backend)


def curl(line: str, port: int) -> tuple[int, Any]:
    """Status and JSON of what a line of the guide fetches."""
    command = shlex.split(line.replace("localhost:8000", f"localhost:{port}"))
    assert command.pop(0) == "curl"
    done = subprocess.run(
        [program("curl"), "--silent", "--show-error", "--write-out", "\n%{http_code}", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("line", GUIDE_CURLS)
def test_every_curl_of_the_guide_reaches_its_process_unchanged(behind: Behind, line: str) -> None:
    status, seen = curl(line, behind.gateway.port)
    path = shlex.split(line)[-1].removeprefix("http://localhost:8000")
    expected = "receiver" if path.partition("?")[0].removeprefix(f"{API}/") in RECEIVERS else "exporter"
    assert (status, seen["by"], seen["path"], seen["method"]) == (
        200,
        expected,
        path,
        "POST" if "-X" in line else "GET",
    )


@pytest.mark.parametrize("line", GUIDE_CURLS)
def test_a_caller_on_this_host_stays_one_behind_the_gateway(behind: Behind, line: str) -> None:
    _, seen = curl(line, behind.gateway.port)
    assert not FORWARDED & seen["headers"].keys()
    assert seen["headers"]["host"] == f"localhost:{behind.gateway.port}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "monitor.example"},
        {"Host": "localhost.evil.example"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=lambda headers: "{}: {}".format(*next(iter(headers.items()))),
)
def test_a_caller_passed_on_or_sent_by_a_page_is_announced_to_the_receiver(
    behind: Behind, headers: dict[str, str]
) -> None:
    seen = httpx.get(behind.url(f"{API}/test/slack"), headers=headers).json()
    assert seen["headers"]["x-forwarded-for"].endswith("127.0.0.1")
    assert seen["headers"]["x-forwarded-proto"] == "http"


def test_notify_goes_to_the_receiver_with_its_body_and_the_callers_credential(behind: Behind) -> None:
    body = {"title": "시스템 알림", "message": "CPU 사용률이 높습니다", "level": "warning", "channels": ["slack"]}
    seen = httpx.post(behind.url(f"{API}/notify"), json=body, headers={"Authorization": "Bearer mine"}).json()
    assert (seen["by"], seen["method"], json.loads(seen["body"])) == ("receiver", "POST", body)
    assert seen["headers"]["authorization"] == "Bearer mine"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1/orders?status=PENDING&q=a%2Fb",
        "/api/v1/monitoring/",
        "/api/v1/monitoring/healthy",
        "/api/v1/monitoring/test/other",
        "/api/v1/monitoring/health/more",
        "/-/reload",
        "/metrics",
        "/webhook",
    ],
)
def test_every_other_path_is_the_backends(behind: Behind, path: str) -> None:
    seen = httpx.get(behind.url(path)).json()
    assert (seen["by"], seen["path"]) == ("backend", path)


def test_the_backend_gets_the_original_headers_and_learns_who_calls(behind: Behind) -> None:
    sent = {
        "Authorization": "Bearer user",
        "Cookie": "session=1",
        "X-Forwarded-For": "203.0.113.9",
        "Host": "erp.example",
    }
    seen = httpx.put(behind.url("/api/v1/orders/1"), content=b"x" * 3_000_000, headers=sent).json()
    headers = seen["headers"]
    assert (seen["method"], len(seen["body"])) == ("PUT", 3_000_000)
    assert {name: headers[name] for name in ("authorization", "cookie", "host")} == {
        "authorization": "Bearer user",
        "cookie": "session=1",
        "host": "erp.example",
    }
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("203.0.113.9, 127.0.0.1", "http")


def test_a_websocket_reaches_the_backend(behind: Behind) -> None:
    with socket.create_connection(("127.0.0.1", behind.gateway.port), timeout=20) as connection:
        connection.sendall(
            b"GET /ws/vehicles HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        with connection.makefile("rb") as stream:
            assert stream.readline().startswith(b"HTTP/1.1 101 ")
            while stream.readline().strip():
                pass
            connection.sendall(b"position\n")
            assert stream.readline() == b"echo position\n"


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_runbook_is_shown_as_text(behind: Behind, language: str) -> None:
    answer = httpx.get(behind.url(f"/runbooks/{language}/ColdChainDatabaseDown.md"))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == (DEPLOY / "runbooks" / language / "ColdChainDatabaseDown.md").read_text("utf-8")


def test_the_runbooks_have_a_list(behind: Behind) -> None:
    assert 'href="ColdChainDatabaseDown.md"' in httpx.get(behind.url("/runbooks/ko/")).text


@pytest.mark.parametrize(
    "path", ["/runbooks/../alertmanager/alertmanager.yml", "/runbooks/%2e%2e/alertmanager/alertmanager.yml"]
)
def test_nothing_beside_the_runbooks_is_served(behind: Behind, path: str) -> None:
    with socket.create_connection(("127.0.0.1", behind.gateway.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as stream:
            answer = stream.read()
    assert b'"by": "backend"' in answer  # what lies above the runbooks is not theirs


def test_a_process_that_is_down_is_named_and_the_backend_goes_on(tmp_path: Path) -> None:
    with socket.socket() as held, StandIn("backend").running() as backend:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refused
        dead = held.getsockname()[1]
        with running_gateway(tmp_path, exporter=dead, receiver=dead, backend=backend.port) as gateway:
            answer = httpx.get(f"http://localhost:{gateway.port}{API}/health")
            other = httpx.get(f"http://localhost:{gateway.port}/api/v1/orders")
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")
    assert answer.json()["detail"].startswith("the monitoring behind the gateway does not answer")
    assert other.json()["by"] == "backend"


def tls_files(folder: Path) -> dict[str, str]:
    """Certificate, key and users in this folder, and what stands for them in the shipped files."""
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "users").write_text(f"duty:{bcrypt.hashpw(b'night', bcrypt.gensalt(4)).decode()}\n")
    instead = {f"coldchain/{name}": str(folder / name) for name in ("tls.crt", "tls.key")}
    instead["auth_basic_user_file coldchain/users"] = f"auth_basic_user_file {folder}/users"
    return instead


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """With TLS and users in front, and credentials of the gateway's own for those behind."""
    folder = tmp_path_factory.mktemp("closed")
    instead = tls_files(folder)
    instead['# 1 "Basic dXNlcjpwYXNzd29yZA=="'] = '1 "Basic exporter"'
    instead['# 1 "Bearer the-receivers-token"'] = '1 "Bearer receiver"'
    with ExitStack() as stack:
        stand_ins = [stack.enter_context(StandIn(name).running()) for name in ("exporter", "receiver", "backend")]
        exporter, receiver, backend = stand_ins
        gateway = stack.enter_context(
            running_gateway(
                folder / "nginx",
                exporter=exporter.port,
                receiver=receiver.port,
                backend=backend.port,
                instead=instead,
                tls=True,
            )
        )
        yield Behind(gateway, exporter, receiver, backend)


@pytest.fixture
def client(closed: Behind) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(closed.gateway.folder.parent / "tls.crt"))
    with httpx.Client(verify=context) as client:
        yield client


@pytest.mark.parametrize("path", [f"{API}/health", f"{API}/test/slack", f"{API}/notify", "/runbooks/ko/"])
@pytest.mark.parametrize("auth", [None, ("duty", "day"), ("nobody", "night")])
def test_over_tls_nobody_unknown_gets_at_the_monitoring(
    closed: Behind, client: httpx.Client, path: str, auth: tuple[str, str] | None
) -> None:
    before = len(closed.exporter.seen) + len(closed.receiver.seen)
    answer = client.get(closed.tls_url(path), auth=auth)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="coldchain"')
    assert len(closed.exporter.seen) + len(closed.receiver.seen) == before


def test_over_tls_a_user_is_passed_on_with_the_gateways_credentials(closed: Behind, client: httpx.Client) -> None:
    health = client.get(closed.tls_url(f"{API}/health"), auth=("duty", "night")).json()
    test = client.get(closed.tls_url(f"{API}/test/slack"), auth=("duty", "night")).json()
    assert (health["by"], health["headers"]["authorization"]) == ("exporter", "Basic exporter")
    assert (test["by"], test["headers"]["authorization"]) == ("receiver", "Bearer receiver")


def test_over_tls_the_backend_asks_its_callers_itself(closed: Behind, client: httpx.Client) -> None:
    seen = client.get(closed.tls_url("/api/v1/orders"), headers={"Authorization": "Bearer user"}).json()
    assert (seen["by"], seen["headers"]["authorization"]) == ("backend", "Bearer user")
    assert seen["headers"]["x-forwarded-proto"] == "https"


def test_over_tls_a_browsers_question_comes_without_the_gateways_credentials(
    closed: Behind, client: httpx.Client
) -> None:
    answer = client.options(closed.tls_url(f"{API}/dashboard"), headers={"Origin": "http://localhost:3000"})
    assert answer.status_code == 200
    assert "authorization" not in answer.json()["headers"]


def test_on_loopback_the_gateway_vouches_for_local_callers_alone(closed: Behind) -> None:
    local = httpx.get(closed.url(f"{API}/test/slack")).json()
    proxied = httpx.get(closed.url(f"{API}/test/slack"), headers={"X-Forwarded-For": "203.0.113.9"}).json()
    basic = base64.b64encode(b"duty:anything").decode()
    claimed = httpx.get(
        closed.url(f"{API}/test/slack"), headers={"Host": "monitor.example", "Authorization": f"Basic {basic}"}
    ).json()
    assert local["headers"]["authorization"] == "Bearer receiver"
    assert "authorization" not in proxied["headers"]
    assert claimed["headers"]["authorization"] == f"Basic {basic}"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_tls_is_refused(closed: Behind, version: str) -> None:
    done = subprocess.run(
        [
            *(program("curl"), "--silent", "--insecure", f"--tlsv{version}", "--tls-max", version),
            *("--ciphers", "DEFAULT@SECLEVEL=0", closed.tls_url("/")),
        ],
        check=False,
    )
    assert done.returncode == 35  # CURLE_SSL_CONNECT_ERROR


def test_a_body_over_the_limit_is_refused_in_words(behind: Behind) -> None:
    answer = httpx.post(f"http://localhost:{behind.gateway.port}{API}/notify", json={"message": "가" * 400_000})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/json")
    assert answer.json()["detail"].startswith("the body is over the limit of the gateway")


def test_guessing_is_slowed_down(closed: Behind, client: httpx.Client) -> None:
    # from an address of its own, for the limit is by address
    context = ssl.create_default_context(cafile=str(closed.gateway.folder.parent / "tls.crt"))
    with httpx.Client(transport=httpx.HTTPTransport(verify=context, local_address="127.0.0.2")) as guesser:
        answers = [
            guesser.get(closed.tls_url(f"{API}/health"), auth=("duty", "guess"), headers={"Host": "monitor.example"})
            for _ in range(300)
        ]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert {answer.text for answer in answers if answer.status_code == 429} == {
        '{"detail": "too many requests from this address: wait a second"}\n'
    }
    assert client.get(closed.tls_url(f"{API}/health"), auth=("duty", "night")).status_code == 200


@dataclass(frozen=True)
class Real:
    """The gateway before the real exporter and receiver, which send to the sandbox."""

    gateway: Gateway
    chain: Chain

    def url(self, path: str) -> str:
        return f"http://localhost:{self.gateway.port}{path}"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    folder = tmp_path_factory.mktemp("real")
    with Sandbox(Options(slack_rate=0)) as sandbox, StandIn("backend").running() as backend:
        chain = Chain(folder, SQLite(folder / "dispatch.db").url, sandbox)
        try:
            for name in ("exporter", "receiver"):
                chain.run(name)
                chain.wait_ready(name)
            with running_gateway(
                folder / "nginx",
                exporter=chain.ports["exporter"],
                receiver=chain.ports["receiver"],
                backend=backend.port,
            ) as gateway:
                yield Real(gateway, chain)
        finally:
            for process in chain.processes.values():
                process.end()


KEYS = {
    "health": {"status", "timestamp", "checks"},
    "metrics": {"period_hours", "timestamp", "orders", "dispatches", "vehicles", "system"},
    "alerts": {"total", "alerts"},
    "dashboard": {"timestamp", "health", "metrics", "alerts"},
}


@pytest.mark.e2e
@pytest.mark.parametrize("line", GUIDE_CURLS)
def test_every_curl_of_the_guide_is_answered_by_the_real_processes(real: Real, line: str) -> None:
    status, answer = curl(line, real.gateway.port)
    assert status == 200
    name = line.partition(f"{API}/")[2].partition("?")[0].rstrip('"')
    assert KEYS.get(name, set()) <= answer.keys()


@pytest.mark.e2e
def test_a_test_through_the_gateway_arrives(real: Real) -> None:
    before = len(real.chain.sandbox.messages("slack"))
    assert httpx.get(real.url(f"{API}/test/slack"), timeout=20).json()["success"] is True
    assert len(real.chain.sandbox.messages("slack")) == before + 1


@pytest.mark.e2e
@pytest.mark.parametrize(
    "headers", [{"X-Forwarded-For": "127.0.0.1"}, {"X-Client-IP": "127.0.0.1"}, {"Host": "monitor.example"}]
)
def test_nobody_else_sends_a_test_without_a_credential(real: Real, headers: dict[str, str]) -> None:
    before = len(real.chain.sandbox.messages("slack"))
    answer = httpx.get(real.url(f"{API}/test/slack"), headers=headers, timeout=20)
    assert answer.status_code == 403  # the receiver has no credential that could be shown
    assert len(real.chain.sandbox.messages("slack")) == before


PAGE = "http://localhost:3000"
ASKED = ("-H", "Access-Control-Request-Method: GET", "-H", "Access-Control-Request-Headers: authorization")


@dataclass(frozen=True)
class FrontEnd:
    """What a page of the firm's front end reaches: the gateway with TLS and users before an exporter that knows it."""

    gateway: Gateway

    def curl(self, path: str, *arguments: str, origin: str = PAGE, tls: bool = True) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer to a page of this origin."""
        scheme, port = ("https", self.gateway.tls_port) if tls else ("http", self.gateway.port)
        trusted = ("--cacert", str(self.gateway.folder.parent / "tls.crt"))
        done = subprocess.run(
            [
                *(program("curl"), "--silent", "--output", "/dev/null", "--dump-header", "-", *trusted),
                *("-H", f"Origin: {origin}", *arguments, f"{scheme}://localhost:{port}{path}"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        status, *lines = done.stdout.strip().splitlines()
        return int(status.split()[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }


@pytest.fixture(scope="module")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    folder = tmp_path_factory.mktemp("front")
    with Sandbox(Options()) as sandbox, StandIn("backend").running() as backend:
        chain = Chain(folder, SQLite(folder / "dispatch.db").url, sandbox)
        (folder / "exporter.yaml").write_text(f"{chain.settings}cors_origins: [{PAGE}]\n")
        try:
            chain.run("exporter")
            chain.wait_ready("exporter")
            with running_gateway(
                folder / "nginx",
                exporter=chain.ports["exporter"],
                receiver=chain.ports["receiver"],
                backend=backend.port,
                instead=tls_files(folder),
                tls=True,
            ) as gateway:
                yield FrontEnd(gateway)
        finally:
            for process in chain.processes.values():
                process.end()


@pytest.mark.e2e
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("path", ["health", "metrics?period_hours=24", "alerts", "dashboard"])
def test_a_page_of_a_known_origin_reads_the_api_with_a_users_credential(
    front_end: FrontEnd, path: str, tls: bool
) -> None:
    asked, allowed = front_end.curl(f"{API}/{path}", "-X", "OPTIONS", *ASKED, tls=tls)
    assert (asked, allowed["access-control-allow-origin"]) == (200, PAGE)
    assert "authorization" in allowed["access-control-allow-headers"].lower()
    answered, headers = front_end.curl(f"{API}/{path}", "--user", "duty:night", tls=tls)
    assert (answered, headers["access-control-allow-origin"]) == (200, PAGE)


@pytest.mark.e2e
def test_a_page_of_another_origin_is_not_let_in(front_end: FrontEnd) -> None:
    status, headers = front_end.curl(f"{API}/dashboard", "-X", "OPTIONS", *ASKED, origin="https://evil.example")
    assert (status, headers.get("access-control-allow-origin")) == (400, None)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{API}/dashboard"),
        ("HEAD", f"{API}/dashboard"),
        ("POST", f"{API}/dashboard"),
        ("OPTIONS", f"{API}/test/slack"),
        ("OPTIONS", f"{API}/notify"),
        ("OPTIONS", "/runbooks/ko/"),
    ],
)
def test_nothing_but_a_browsers_question_to_the_exporter_goes_without_a_user(
    front_end: FrontEnd, method: str, path: str
) -> None:
    arguments = ("--head",) if method == "HEAD" else ("-X", method, *ASKED)
    assert front_end.curl(path, *arguments)[0] == 401
