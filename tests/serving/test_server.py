"""Doors and signals of a served process, tried from outside."""

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import httpx
import pytest

from tests.waiting import until

Start = Callable[..., "Served"]


@dataclass
class Served:
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def log(self) -> str:
        return "\n".join(self.lines)

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    @property
    def port(self) -> int:
        found = until(lambda: re.search(r"listening.*address=127\.0\.0\.1:(\d+)", self.log()), "the server listens")
        return int(found[1])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Served] = []

    def start_one(*flags: str, **environ: str) -> Served:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.sample", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        served = Served(process)
        assert process.stderr is not None
        threading.Thread(target=lambda: served.lines.extend(process.stderr or ()), daemon=True).start()
        running.append(served)
        return served

    yield start_one
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
        served.process.wait()
        assert served.process.stderr is not None
        served.process.stderr.close()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    hashed = bcrypt.hashpw(b"geheim", bcrypt.gensalt(4, prefix=b"2b")).decode()
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users:\n  duty: {hashed}\n")
    return file


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    file = tmp_path / "web.yml"
    file.write_text("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n")
    return file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(start: Start, number: signal.Signals) -> None:
    served = start()
    assert httpx.get(served.url("/-/healthy")).text == "Healthy\n"
    assert served.end(number) == 0


def test_without_credentials_configured_everything_is_open(start: Start) -> None:
    assert httpx.get(start().url("/")).status_code == 200


def test_a_user_of_the_web_configuration_gets_in_and_others_do_not(start: Start, users: Path) -> None:
    served = start(f"--web.config.file={users}")
    answers = {
        "none": httpx.get(served.url("/")).status_code,
        "right": httpx.get(served.url("/"), auth=("duty", "geheim")).status_code,
        "right again": httpx.get(served.url("/"), auth=("duty", "geheim")).status_code,
        "wrong": httpx.get(served.url("/"), auth=("duty", "falsch")).status_code,
        "unknown": httpx.get(served.url("/"), auth=("nobody", "geheim")).status_code,
        "broken": httpx.get(served.url("/"), headers={"Authorization": "Basic %%%"}).status_code,
    }
    assert answers == {"none": 401, "right": 200, "right again": 200, "wrong": 401, "unknown": 401, "broken": 401}
    assert "geheim" not in served.log()
    assert "falsch" not in served.log()


def test_the_bearer_token_gets_in_and_others_do_not(start: Start) -> None:
    served = start(SAMPLE_TOKEN="t0ken")
    answers = [
        httpx.get(served.url("/"), headers={"Authorization": value}).status_code
        for value in ("Bearer t0ken", "Bearer wrong", "Bearer", "Basic dDBrZW46", "bearer t0ken")
    ]
    assert answers == [200, 401, 401, 401, 200]


def test_state_is_open_to_all(start: Start) -> None:
    served = start(SAMPLE_TOKEN="t0ken")
    assert httpx.get(served.url("/-/healthy")).text == "Healthy\n"
    assert httpx.get(served.url("/-/ready")).text == "Ready\n"
    assert httpx.post(served.url("/-/reload")).status_code == 401


def test_it_refuses_to_listen_beyond_loopback_without_authentication(start: Start) -> None:
    served = start("--web.listen-address=0.0.0.0:0")
    assert served.process.wait(20) == 1
    assert until(served.log, "it says why").startswith(
        "error: --web.listen-address=0.0.0.0:0 is beyond loopback and no authentication is configured"
    )


def test_it_listens_beyond_loopback_when_told_so(start: Start) -> None:
    served = start("--web.listen-address=0.0.0.0:0", "--web.allow-anonymous")
    assert until(lambda: "listening" in served.log(), "it listens")


def test_it_listens_beyond_loopback_with_users(start: Start, users: Path) -> None:
    served = start("--web.listen-address=0.0.0.0:0", f"--web.config.file={users}")
    assert until(lambda: "listening" in served.log(), "it listens")


def test_a_port_that_is_taken_is_said(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        served = start(f"--web.listen-address={address}")
        assert served.process.wait(20) == 1
    assert until(served.log, "it says why").startswith(f"error: cannot listen on {address}: Address already in use;")


def test_an_address_that_is_none_is_said(start: Start) -> None:
    served = start("--web.listen-address=19110")
    assert served.process.wait(20) == 1
    assert until(served.log, "it says why").strip() == (
        "error: --web.listen-address=19110: write HOST:PORT, for example 127.0.0.1:19110"
    )


def test_refusals_are_counted(start: Start) -> None:
    served = start(SAMPLE_TOKEN="t0ken")
    httpx.get(served.url("/"))
    answer = httpx.post(served.url("/echo"), content=b"12345", headers={"Authorization": "Bearer t0ken"})
    assert answer.text == "5 bytes, 1 refused\n"


def test_every_answer_carries_the_security_headers(start: Start) -> None:
    headers = httpx.get(start().url("/-/healthy")).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")
    assert "server" not in headers


def test_a_head_that_does_not_end_is_cut_off(start: Start) -> None:
    served = start()
    endless = b"GET / HTTP/1.1\r\nHost: x\r\n" + 1000 * (b"X-Long: " + b"a" * 4000 + b"\r\n")
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as client,
        contextlib.suppress(ConnectionError),  # reset while it still sends, or closed after
    ):
        client.sendall(endless)
        assert client.recv(100) == b""
    assert until(lambda: 'reason="head too long"' in served.log(), "it says so")
    assert httpx.get(served.url("/-/healthy")).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"])
def test_a_request_that_does_not_arrive_in_time_is_cut_off(start: Start, sent: bytes) -> None:
    served = start(SAMPLE_REQUEST_SECONDS="0.5")
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(sent)
        assert client.recv(100) == b""
    assert until(lambda: 'reason="request too slow"' in served.log(), "it says so")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http_server_config: {http2: true}\n", "web.yml:1: http_server_config: unknown setting; allowed here:"),
        ("tls_server_config:\n  cert_file: a\n", "web.yml:1: tls_server_config.key_file: Field required"),
        (
            "tls_server_config:\n  cert_file: /dev/null\n  key_file: /none/tls.key\n",
            "web.yml: tls_server_config: cannot read /none/tls.key: No such file or directory",
        ),
        ("basic_auth_users:\n  duty: geheim\n", "web.yml:2: basic_auth_users.duty: expected a bcrypt hash"),
        # of a hash's length, and what the library would refuse at each login
        (f"basic_auth_users:\n  duty: $2b$10${'!' * 53}\n", "web.yml:2: basic_auth_users.duty: expected a bcrypt hash"),
        (f"basic_auth_users:\n  duty: $2b$03${'.' * 53}\n", "web.yml:2: basic_auth_users.duty: expected a bcrypt hash"),
        (f"basic_auth_users:\n  duty: $2b$10${'a' * 53}\n", "web.yml:2: basic_auth_users.duty: expected a bcrypt hash"),
        # a login that takes hours
        (f"basic_auth_users:\n  duty: $2b$31${'.' * 53}\n", "web.yml:2: basic_auth_users.duty: expected a bcrypt hash"),
    ],
)
def test_a_wrong_web_configuration_is_refused(start: Start, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "web.yml").write_text(text)
    served = start(f"--web.config.file={tmp_path}/web.yml")
    assert served.process.wait(20) == 1
    assert until(served.log, "it says why").startswith(f"error: {tmp_path}/{expected}")
    assert "geheim" not in served.log()


def test_tls_is_served_and_plain_http_is_not(start: Start, certificate: Path) -> None:
    served = start(f"--web.config.file={certificate}")
    context = ssl.create_default_context(cafile=str(certificate.parent / "cert.pem"))
    assert httpx.get(served.url("/-/healthy", "https"), verify=context).text == "Healthy\n"
    with pytest.raises(httpx.TransportError):
        httpx.get(served.url("/-/healthy"))


def test_users_are_read_again_without_a_restart(start: Start, users: Path) -> None:
    served = start(f"--web.config.file={users}")
    before = httpx.get(served.url("/"), auth=("duty", "geheim"))
    users.write_text(users.read_text().replace("duty", "chief"))
    answer = httpx.post(served.url("/-/reload"), auth=("duty", "geheim"))
    assert (before.status_code, answer.status_code) == (200, 200)
    assert httpx.get(served.url("/"), auth=("duty", "geheim")).status_code == 401
    assert httpx.get(served.url("/"), auth=("chief", "geheim")).status_code == 200


def test_a_refused_reload_says_why_and_leaves_the_old_in_force(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sample.yaml").write_text("")
    served = start(f"--config.file={tmp_path}/sample.yaml")
    url = served.url("/")
    (tmp_path / "sample.yaml").unlink()
    answer = httpx.post(served.url("/-/reload"))
    assert (answer.status_code, answer.json()) == (400, {"detail": ["sample.yaml: cannot be read"]})
    assert httpx.get(url).text == "reload successful: False\n"


def test_hangup_reads_the_configuration_again(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sample.yaml").write_text("")
    served = start(f"--config.file={tmp_path}/sample.yaml")
    url = served.url("/")
    (tmp_path / "sample.yaml").unlink()
    served.process.send_signal(signal.SIGHUP)
    assert until(lambda: httpx.get(url).text == "reload successful: False\n", "the reload is refused")
    (tmp_path / "sample.yaml").write_text("")
    served.process.send_signal(signal.SIGHUP)
    assert until(lambda: httpx.get(url).text == "reload successful: True\n", "the reload is accepted")


def test_logs_are_json_lines_when_asked_for(start: Start) -> None:
    served = start("--log.format=json")
    line = until(lambda: next((line for line in served.lines if "listening" in line), None), "it logs")
    assert re.fullmatch(
        r'\{"address": "127\.0\.0\.1:\d+", "tls": false, "level": "info", "logger": "serving\.command", '
        r'"ts": "[0-9T:.Z-]+", "msg": "listening"\}\n',
        line,
    )


def test_the_version_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.sample", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "sample 1.2.3\n"
