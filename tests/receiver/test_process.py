"""The receiver as a process of its own: what survives its death, how it ends, whom it lets in."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.demo.sandbox import Sandbox
from tests.databases import free_port
from tests.receiver.making import body, payload_alert
from tests.waiting import until

JSON = {"Content-Type": "application/json"}


class Process:
    """`python -m receiver` with the guide's variables, in a folder of its own."""

    def __init__(self, sandbox: Sandbox, folder: Path, *flags: str, **environment: str) -> None:
        host, port = sandbox.smtp
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        (folder / "quick.yaml").write_text("retry: {first: 200ms, longest: 500ms}\nslack: {pause: 0s}\n")
        self.flags = [f"--web.listen-address={self.address}", "--config.file=quick.yaml", *flags]
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        self.environment = (
            kept
            | {
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "SMTP_HOST": host,
                "SMTP_PORT": str(port),
                "SMTP_TLS": "none",
                "SMTP_FROM": "noreply@example.com",
                "ALERT_EMAIL_TO": "a@example.com,b@example.com",
                "SLACK_WEBHOOK_URL": sandbox.slack_webhook_url,
                "ALIGO_API_KEY": "sandbox-key",
                "ALIGO_USER_ID": "sandbox",
                "ALIGO_SENDER": "02-1234-5678",
                "ALIGO_BASE_URL": sandbox.aligo_base_url,
                "ALERT_SMS_TO": "010-1234-5678",
            }
            | environment
        )
        self.client = httpx.Client(base_url=f"http://{self.address}", trust_env=False, timeout=20)
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "receiver", *self.flags], cwd=self.folder, env=self.environment, stderr=log
            )
        until(self._is_ready, "the receiver is ready", 120)

    def _is_ready(self) -> bool:
        assert self.popen is not None
        assert self.popen.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/-/ready").status_code == 200
        return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.popen is None:
            return 0
        self.popen.send_signal(number)
        return self.popen.wait(20)

    def end_leases(self) -> None:
        """As if the time had passed after which a dead receiver's deliveries are taken up."""
        with contextlib.closing(sqlite3.connect(self.folder / "receiver.db")) as connection, connection:
            connection.execute("UPDATE deliveries SET lease_until = '2000-01-01 00:00:00.000000' WHERE lease_until > 0")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A sub-command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "receiver", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def post(self, content: bytes, **headers: str) -> tuple[int, Any]:
        answer = self.client.post("/webhook", content=content, headers=JSON | headers)
        return answer.status_code, answer.json()

    def states(self, notification_id: int) -> dict[str, str]:
        found = self.client.get(f"/api/v1/notifications/{notification_id}").json()["deliveries"]
        return {delivery["channel"]: delivery["state"] for delivery in found}

    def metrics(self) -> str:
        return self.client.get("/metrics").text


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    process.start()
    try:
        yield process
    finally:
        if process.popen is not None and process.popen.poll() is None:
            process.end(signal.SIGKILL)
        process.client.close()


@pytest.fixture
def process(sandbox: Sandbox, tmp_path: Path) -> Iterator[Process]:
    with running(Process(sandbox, tmp_path)) as started:
        yield started


def critical(fingerprint: str = "f1") -> bytes:
    return body([payload_alert(fingerprint, severity="critical")], groupKey=fingerprint)


def test_what_was_accepted_survives_a_hard_kill(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=500)
    sandbox.misbehave(channel="smtp", status=451)
    for number in range(5):
        assert process.post(critical(f"f{number}"))[0] == 200
    process.end(signal.SIGKILL)
    sandbox.behave()
    process.end_leases()
    process.start()
    for number in range(1, 6):
        until(lambda: set(process.states(number).values()) <= {"delivered", "merged"}, "all arrive", 60)  # noqa: B023
    assert sandbox.messages("slack")
    assert sandbox.messages("smtp")
    assert len(sandbox.messages("aligo")) == 5


def test_message_in_flight_at_a_hard_kill_is_sent_again_and_an_sms_is_asked_for_first(
    process: Process, sandbox: Sandbox
) -> None:
    sandbox.misbehave(channel="aligo", hang=True, accept=True, times=1)
    sandbox.misbehave(channel="slack", hang=True, accept=True, times=1)
    process.post(critical())
    until(lambda: sandbox.messages("slack") and sandbox.messages("aligo"), "both are in flight")
    process.end(signal.SIGKILL)
    sandbox.behave()
    process.end_leases()
    process.start()
    until(lambda: process.states(1) == {"email": "delivered", "sms": "delivered", "slack": "delivered"}, "it is", 60)
    assert len(sandbox.messages("slack")) == 2  # nobody can be asked: at least once
    assert len(sandbox.messages("aligo")) == 1
    assert [call["stage"] for call in sandbox.calls("aligo") if call["stage"] != "remain"][-2:] == ["list", "sms_list"]


def test_stop_ends_within_ten_seconds_and_gives_back_what_it_holds(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", hang=True)
    process.post(critical())
    until(lambda: sandbox.calls("slack"), "it is being sent")
    before = time.monotonic()
    assert process.end() == 0
    assert time.monotonic() - before < 10
    assert "stopped while sending: to be sent again" in process.log()
    sandbox.behave()
    process.start()
    until(lambda: process.states(1)["slack"] == "delivered", "it is sent again at once", 10)


def test_stop_waits_for_what_is_being_sent(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", delay=1)
    process.post(critical())
    until(lambda: sandbox.messages("slack"), "it is being sent")
    assert process.end() == 0
    sandbox.behave()
    process.start()
    assert process.states(1)["slack"] == "delivered"
    assert len(sandbox.messages("slack")) == 1


def test_wrong_or_missing_credential_is_401_and_counted(sandbox: Sandbox, tmp_path: Path) -> None:
    with running(Process(sandbox, tmp_path, RECEIVER_TOKEN="right")) as process:
        assert process.post(critical())[0] == 401
        assert process.post(critical(), Authorization="Bearer wrong")[0] == 401
        assert process.post(critical(), Authorization="Bearer right")[0] == 200
        process.client.headers["Authorization"] = "Bearer right"
        assert 'coldchain_receiver_webhooks_total{result="unauthorized"} 2.0' in process.metrics()


def raw(process: Process, head: bytes) -> socket.socket:
    host, port = process.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n")
    return connection


def test_body_over_sixteen_mebibytes_is_refused_while_it_is_read(process: Process) -> None:
    before = process.post(critical())[0]
    assert before == 200
    memory = psutil.Process(process.popen.pid).memory_info().rss if process.popen else 0
    with raw(process, b"Transfer-Encoding: chunked") as connection:
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        with contextlib.suppress(OSError):  # it may close while we still talk
            for _ in range(16 * 16 + 1):
                connection.sendall(chunk)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert process.popen is not None
    assert psutil.Process(process.popen.pid).memory_info().rss - memory < 64 * 2**20


def test_clients_that_dawdle_or_leave_hold_up_nobody(process: Process) -> None:
    lying = [raw(process, b"Content-Length: 1000") for _ in range(100)]
    assert process.post(critical())[0] == 200
    for connection in lying:
        connection.close()
    assert process.post(critical("f2"))[0] == 200
    assert 'coldchain_receiver_webhooks_total{result="accepted"} 2.0' in process.metrics()


def test_hangup_reads_the_settings_again(process: Process, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECEIVER_LOCALE=en\n")
    assert process.popen is not None
    process.popen.send_signal(signal.SIGHUP)
    until(lambda: "configuration read again" in process.log(), "it is read again")
    process.post(critical())
    mails = until(lambda: sandbox.messages("smtp"), "the mail arrives")
    assert "Category: business" in mails[0]["text"]


def test_channel_that_is_off_says_so_once_at_start(sandbox: Sandbox, tmp_path: Path) -> None:
    with running(Process(sandbox, tmp_path, ALERT_EMAIL_TO="")) as process:
        assert process.post(critical())[1]["deliveries"] == 2
        lines = [line for line in process.log().splitlines() if "channel is off" in line]
        assert len(lines) == 1
        assert "channel=email" in lines[0]
        assert "ALERT_EMAIL_TO" in lines[0]


def test_check_config_names_the_line_at_fault(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "receiver.yaml").write_text("locale: ko\nretry:\n  first: soon\n")
    done = Process(sandbox, tmp_path).run("--config.file=receiver.yaml", "check-config")
    assert done.returncode == 1
    assert done.stderr == ("error: receiver.yaml:3: retry.first: write a duration such as 15s, 5m, 2h or 1d\n")


EXPOSED = (
    "--web.listen-address=0.0.0.0:0 is beyond loopback and no authentication is configured: give --web.config.file "
    "with basic_auth_users (or a token), or allow it with --web.allow-anonymous"
)


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--web.listen-address=0.0.0.0:0", EXPOSED),
        ("--web.listen-address=19111", "--web.listen-address=19111: write HOST:PORT, for example 127.0.0.1:19110"),
        ("--web.config.file=none.yml", "none.yml: cannot be read: No such file or directory"),
    ],
)
def test_check_config_and_doctor_tell_why_it_would_not_listen(
    sandbox: Sandbox, tmp_path: Path, flag: str, problem: str
) -> None:
    process = Process(sandbox, tmp_path)
    checked, examined = process.run(flag, "check-config"), process.run(flag, "doctor")
    assert (checked.returncode, checked.stderr) == (1, f"error: {problem}\n")
    assert (examined.returncode, examined.stdout.splitlines()[0]) == (1, f"FAULT settings: {problem}")


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--web.allow-anonymous"], {}), ([], {"RECEIVER_TOKEN": "a-token"})],
    ids=["who allows it", "who has a token"],
)
def test_check_config_lets_listen_anywhere(
    sandbox: Sandbox, tmp_path: Path, flags: list[str], environment: dict[str, str]
) -> None:
    process = Process(sandbox, tmp_path, **environment)
    done = process.run("--web.listen-address=0.0.0.0:0", *flags, "check-config")
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_knows_the_port_that_the_receiver_holds(process: Process) -> None:
    place = f"--web.listen-address={process.address}"
    assert process.run(place, "doctor").stdout.splitlines()[0] == (
        f"ok    port: {process.address}: the receiver is running there"
    )


def test_shipped_file_is_good(sandbox: Sandbox, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "deploy" / "receiver" / "receiver.yaml"
    done = Process(sandbox, tmp_path).run(f"--config.file={shipped}", "check-config")
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_tries_everything_and_says_what_to_do(sandbox: Sandbox, tmp_path: Path) -> None:
    process = Process(sandbox, tmp_path, ALIGO_API_KEY="wrong")
    done = process.run("--web.listen-address=127.0.0.1:0", "doctor")
    assert done.returncode == 1
    lines = {line[6:].split(":")[0]: line[:6].strip() for line in done.stdout.splitlines()}
    assert lines == {
        "port": "ok",
        "store": "ok",
        "heartbeat": "-",
        "email": "ok",
        "slack": "-",
        "sms": "FAULT",
        "alertmanager": "-",
        "clock": "ok",
    }
    assert "Aligo answered -102" in done.stdout
    assert "Check ALIGO_API_KEY" in done.stdout


def test_erase_takes_an_address_out_of_the_history(process: Process, sandbox: Sandbox) -> None:
    process.post(critical())
    until(lambda: set(process.states(1).values()) == {"delivered"}, "it is delivered")
    for address, stored in (("a@example.com", "a@example.com"), ("+82 10-1234-5678", "01012345678")):
        done = process.run("erase", address)
        assert (done.returncode, done.stdout) == (0, "taken out of 1 deliveries in sqlite:///receiver.db\n")
        assert stored not in process.client.get("/api/v1/notifications/1").text


def test_erase_in_a_store_that_nobody_has_made_is_an_error_and_makes_none(sandbox: Sandbox, tmp_path: Path) -> None:
    done = Process(sandbox, tmp_path).run("erase", "a@example.com")
    said = "error: there is no history in sqlite:///receiver.db. Give RECEIVER_DATABASE_URL as the service has it.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert not (tmp_path / "receiver.db").exists()
