"""The guide's `NotificationService`, called as in the guide, by itself and beside a running receiver."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.sandbox import Sandbox
from receiver import NotificationService
from receiver.notice import InvalidNoticeError
from receiver.outbox import KeyReusedError
from receiver.store import StoreUnavailableError
from serving.settings import ConfigError
from tests.databases import PostgreSQL
from tests.receiver.conftest import new_database
from tests.receiver.test_process import Process, running
from tests.waiting import until

ROOT = Path(__file__).parents[2]
# Word for word the guide's, but for its import.
GUIDE = """
notification_service = NotificationService()
notification_service.send_alert(
    title="시스템 알림",
    message="CPU 사용률이 높습니다",
    level="warning",
    channels=["email", "slack"],
    recipients={
        "email": ["admin@example.com"],
        "slack": []  # Slack은 Webhook URL만 필요
    }
)
"""
ASKED: dict[str, Any] = {
    "title": "시스템 알림",
    "message": "CPU 사용률이 높습니다",
    "level": "warning",
    "channels": ["email", "slack"],
    "recipients": {"email": ["admin@example.com"], "slack": []},
}


@pytest.fixture
def process(sandbox: Sandbox, tmp_path: Path) -> Iterator[Process]:
    """A receiver that is not started."""
    made = Process(sandbox, tmp_path)
    made.environment["RECEIVER_DATABASE_URL"] = f"sqlite:///{tmp_path}/receiver.db"
    yield made
    made.client.close()


@pytest.fixture
def service(process: Process) -> NotificationService:
    return NotificationService(environ=process.environment)


def script(process: Process, text: str, **more: Any) -> subprocess.Popen[str]:
    """A program of its own, with the settings in the `.env` of its folder."""
    variables = {name: value for name, value in process.environment.items() if "_" in name}
    (process.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return subprocess.Popen(
        [sys.executable, "-c", f"from receiver import NotificationService\n{text}"],
        cwd=process.folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_guides_example_sends_without_a_receiver_and_without_a_word(process: Process, sandbox: Sandbox) -> None:
    program = script(process, GUIDE)
    assert program.communicate(timeout=60) == ("", "")
    assert program.returncode == 0
    (mail,) = sandbox.messages("smtp")
    assert (mail["recipients"], mail["subject"]) == (["admin@example.com"], "[WARNING] 시스템 알림")
    (post,) = sandbox.messages("slack")
    assert post["payload"]["text"] == "🟠 [WARNING] 시스템 알림"


def test_answer_has_the_shape_of_notify(service: NotificationService) -> None:
    assert service.send_alert(**ASKED) == {
        "success": True,
        "results": {"email": True, "slack": True},
        "message": "알림이 전송되었습니다",
        "pending": [],
        "errors": {},
        "notification": 1,
    }


def test_without_channels_the_level_decides(service: NotificationService, sandbox: Sandbox) -> None:
    answer = service.send_alert("디스크 공간 부족", "디스크 사용률이 95.0%로 매우 높습니다", "critical")
    assert answer["results"] == {"email": True, "slack": True, "sms": True}
    assert sandbox.messages("aligo")[0]["msg"] == "[위험] 디스크 공간 부족\n디스크 사용률이 95.0%로 매우 높습니다"


def test_what_does_not_get_through_is_left_to_the_receiver(
    service: NotificationService, process: Process, sandbox: Sandbox
) -> None:
    sandbox.misbehave(channel="slack", status=500, body="rollup_error", times=1)
    answer = service.send_alert(**ASKED)
    assert (answer["results"], answer["pending"]) == ({"email": True, "slack": False}, ["slack"])
    assert answer["errors"] == {"slack": "Slack answered 500 rollup_error"}
    with running(process):
        until(lambda: process.states(1) == {"email": "delivered", "slack": "delivered"}, "the receiver delivers it")
    assert len(sandbox.messages("smtp")) == len(sandbox.messages("slack")) == 1


def test_what_a_killed_program_was_sending_is_sent_by_the_receiver(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", hang=True)
    program = script(process, GUIDE)
    until(lambda: sandbox.calls("slack"), "it is being sent", 60)
    program.kill()
    program.communicate()
    sandbox.behave()
    process.end_leases()
    with running(process):
        until(lambda: process.states(1)["slack"] == "delivered", "the receiver delivers it")
    assert len(sandbox.messages("slack")) == 1


def test_channel_that_hangs_does_not_delay_the_others_nor_for_ever(
    process: Process, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.misbehave(channel="smtp", stage="connect", hang=True)
    file = tmp_path / "receiver.yaml"
    file.write_text("email: {timeout: 1s}\n")
    answer = NotificationService(config_file=file, environ=process.environment).send_alert(**ASKED)
    assert (answer["results"], answer["pending"]) == ({"email": False, "slack": True}, ["email"])
    assert answer["errors"] == {
        "email": "connection to the mail server failed: Connection unexpectedly closed: timed out"
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_beside_a_running_receiver_nothing_is_sent_twice(
    process: Process, sandbox: Sandbox, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        process.environment["RECEIVER_DATABASE_URL"] = new_database(server)
    service = NotificationService(environ=process.environment)
    titles = [f"알림 {number}" for number in range(12)]

    def send(title: str) -> dict[str, Any]:
        return service.send_alert(**(ASKED | {"title": title}))

    with running(process):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(send, titles))
        numbers = [answer["notification"] for answer in answers]
        assert len(set(numbers)) == len(titles)
        for number in numbers:
            until(lambda number=number: set(process.states(number).values()) == {"delivered"}, "all is delivered", 60)  # type: ignore[misc] # a lambda's default
    assert Counter(mail["subject"] for mail in sandbox.messages("smtp")) == {
        f"[WARNING] {title}": 1 for title in titles
    }
    posts = Counter(post["payload"]["text"] for post in sandbox.messages("slack"))
    assert posts == {f"🟠 [WARNING] {title}": 1 for title in titles}


def test_key_makes_a_second_call_the_first(service: NotificationService, sandbox: Sandbox) -> None:
    first = service.send_alert(**ASKED, idempotency_key="nightly-17")
    assert service.send_alert(**ASKED, idempotency_key="nightly-17") == first
    with pytest.raises(KeyReusedError):
        service.send_alert(**(ASKED | {"title": "다른 알림"}), idempotency_key="nightly-17")
    assert len(sandbox.messages("smtp")) == 1


def test_nothing_is_left_running(service: NotificationService) -> None:
    before = set(threading.enumerate())
    service.send_alert(**ASKED)
    until(lambda: set(threading.enumerate()) <= before, "its threads have ended")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": "urgent"}, "level: Input should be 'info', 'warning' or 'critical'"),
        ({"recipients": {"fax": ["1"]}}, "recipients: there is no channel fax; there is email, sms and slack"),
        ({"recipients": {"email": "admin@example.com"}}, "recipients: email must be a list of addresses"),
        ({"recipients": {"email": ["x"]}}, "email_recipients: number 1 is no mail address such as admin@example.com"),
        ({"channels": "slack"}, "channels: must be a list such as ['slack']"),
    ],
)
def test_wrong_argument_is_named(service: NotificationService, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidNoticeError) as caught:
        service.send_alert(**(ASKED | change))
    assert str(caught.value) == said


def test_store_that_is_not_there_is_said_and_nothing_is_sent(process: Process, sandbox: Sandbox) -> None:
    process.environment["RECEIVER_DATABASE_URL"] = f"sqlite:///{process.folder}/missing/receiver.db"
    service = NotificationService(environ=process.environment)
    with pytest.raises(StoreUnavailableError):
        service.send_alert(**ASKED)
    assert sandbox.calls("slack") == []


def test_wrong_setting_is_named_at_once(process: Process) -> None:
    with pytest.raises(ConfigError, match=r"SMTP_PORT: email\.port"):
        NotificationService(environ=process.environment | {"SMTP_PORT": "x"})


def test_programs_own_logging_gets_the_words(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=404, body="no_service")
    program = script(process, f"import logging\nlogging.basicConfig(format='%(name)s %(message)s'){GUIDE}")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, "")
    assert err.startswith("receiver.delivery not delivered")
    assert "services/T0" not in err


def test_package_is_imported_without_all_that_sending_needs() -> None:
    text = "import receiver, sys; print(sorted({'sqlalchemy', 'requests', 'jinja2', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.usefixtures("interruptible")
def test_program_ends_at_once_when_it_is_interrupted(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", hang=True)
    program = script(process, GUIDE)
    until(lambda: sandbox.calls("slack"), "it is being sent", 60)
    program.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(8)  # Slack's time-out alone is 10 s
    assert program.poll() is not None
    program.communicate()
