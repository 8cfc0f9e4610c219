"""`coldchain-receiver test` and `report`: one line with the peer's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.sandbox import Sandbox
from tests.outside import answering
from tests.receiver.test_process import Process
from tests.receiver.test_report import GUIDE


@pytest.fixture
def process(sandbox: Sandbox, tmp_path: Path) -> Iterator[Process]:
    """A receiver that is not started."""
    made = Process(sandbox, tmp_path)
    yield made
    made.client.close()


def said(process: Process, *arguments: str) -> tuple[int, str]:
    """The exit code and all that was printed."""
    done = process.run(*arguments)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "line", "channel", "arrived"),
    [
        (["email"], "email: sent a test to a@example.com, b@example.com\n", "smtp", 1),
        (["email", "--to=me@example.com"], "email: sent a test to me@example.com\n", "smtp", 1),
        (["slack"], "slack: sent a test to default\n", "slack", 1),
        (["sms"], r"sms: sent a test to 01012345678 \(its number there: \d+\)\n", "aligo", 1),
        (
            ["sms", "--to=010-1111-2222,010-3333-4444"],
            r"sms: sent a test to 01011112222, 01033334444 \(its number there: \d+\)\n",
            "aligo",
            2,
        ),
    ],
)
def test_test_is_sent_and_said(
    process: Process, sandbox: Sandbox, arguments: list[str], line: str, channel: str, arrived: int
) -> None:
    code, words = said(process, "test", *arguments)
    assert code == 0
    assert re.fullmatch(line, words)
    assert len(sandbox.messages(channel)) == arrived


def test_nothing_is_stored(process: Process) -> None:
    process.run("test", "slack")
    assert not (process.folder / "receiver.db").exists()


def test_refusal_is_in_the_peers_own_words(process: Process, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=404, body="no_service")
    sandbox.misbehave(channel="aligo", body={"result_code": -101, "message": "인증오류입니다."})
    sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550})
    assert said(process, "test", "slack") == (1, "slack: Slack answered 404 no_service\n")
    assert said(process, "test", "sms") == (1, "sms: Aligo answered -101 인증오류입니다.\n")
    code, line = said(process, "test", "email")
    assert (code, line.count("\n")) == (1, 1)
    assert line.startswith("email: a@example.com refused: 550 ")


@pytest.mark.parametrize(
    ("arguments", "without", "line"),
    [
        (["slack"], "SLACK_WEBHOOK_URL", "slack: off, not set: SLACK_WEBHOOK_URL\n"),
        (["email"], "ALERT_EMAIL_TO", "email: no recipients: give --to, or set ALERT_EMAIL_TO\n"),
        (["email", "--to=x"], "", "error: --to: number 1 is no mail address such as admin@example.com\n"),
        (["slack", "--to=ops"], "", "error: --to: there is no hook of that name; there is: default\n"),
    ],
)
def test_what_is_missing_is_named(process: Process, arguments: list[str], without: str, line: str) -> None:
    process.environment.pop(without, None)
    assert said(process, "test", *arguments) == (1, line)


def exporter(_path: str, _headers: object) -> tuple[int, bytes]:
    """Answers as in the guide."""
    return 200, json.dumps(GUIDE).encode()


def test_report_is_mailed_now(process: Process, sandbox: Sandbox) -> None:
    with answering(exporter) as process.environment["EXPORTER_URL"]:
        assert said(process, "report") == (0, "email: sent the report (healthy) to a@example.com, b@example.com\n")
        assert said(process, "report", "--to=boss@example.com") == (
            0,
            "email: sent the report (healthy) to boss@example.com\n",
        )
    first, second = sandbox.messages("smtp")
    assert (first["subject"], second["recipients"]) == ("시스템 상태 보고", ["boss@example.com"])
    assert "<li>응답 시간: 45ms</li>" in first["html"]


def test_report_without_an_exporter_is_an_error_and_no_mail(process: Process, sandbox: Sandbox) -> None:
    process.environment["EXPORTER_URL"] = "http://127.0.0.1:1"
    assert said(process, "report") == (
        1,
        (
            "error: the exporter at http://127.0.0.1:1 is not reached: ConnectionError. Check EXPORTER_URL and that "
            "the exporter is running.\n"
        ),
    )
    assert sandbox.calls("smtp") == []
