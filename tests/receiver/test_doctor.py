"""The doctor: Alertmanager's intervals, the store, the clock, the channels; each fault with what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.demo.sandbox import Sandbox
from receiver.channels.slack import SlackSettings
from receiver.doctor import Intervals, examine, intervals, judge_clock, judge_heartbeat, judge_window
from receiver.outbox import Outbox
from receiver.settings import HeartbeatSettings, ReceiverSettings, ReportSettings
from receiver.store import Store
from receiver.tables import REVISION
from tests.databases import PostgreSQL
from tests.receiver.conftest import new_database
from tests.receiver.making import NOW
from tests.receiver.sending import email_settings, slack_settings, sms_settings
from tests.receiver.serving import served

SHIPPED = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

CONFIG = """
receivers:
  - name: hook
    webhook_configs: [{url: <secret>}]
  - name: mail
    email_configs: [{to: a@example.com}]
route:
  receiver: hook
  group_interval: 1m
  routes:
    - matchers: [severity = critical]
      repeat_interval: 1h
      routes:
        - matchers: [team = a]
          group_interval: 2m
    - matchers: [alertname = ColdChainWatchdog]
      repeat_interval: 3m
    - match: {severity: info}
      receiver: mail
      repeat_interval: 5m
"""


def test_intervals_are_handed_down_and_only_routes_to_a_webhook_count() -> None:
    assert intervals(CONFIG) == [
        Intervals("the top route", MINUTE, 4 * HOUR),
        Intervals("severity = critical", MINUTE, HOUR),
        Intervals("team = a", 2 * MINUTE, HOUR),
    ]


def test_shipped_configuration_fits_the_default_window() -> None:
    finding = judge_window(ReceiverSettings().dedup_window, intervals(SHIPPED.read_text(encoding="utf-8")))
    assert (finding.good, finding.what) == (True, "dedup_window")


@pytest.mark.parametrize(
    ("window", "good", "words"),
    [
        (MINUTE, False, "1m is not above group_interval 1m of the top route"),
        (MINUTE + timedelta(seconds=1), True, "61s, between the intervals of 1 routes"),
        (HOUR - MINUTE, True, "59m, between the intervals of 1 routes"),
        (HOUR, False, "1h is not below repeat_interval 1h of the top route"),
    ],
)
def test_window_lies_between_the_intervals(window: timedelta, *, good: bool, words: str) -> None:
    finding = judge_window(window, [Intervals("the top route", MINUTE, HOUR)])
    assert finding.good is good
    assert words in finding.text


@pytest.mark.parametrize("config", ["", "[]", "route: {}", "receivers: []\nroute: {}", "{", "receivers: 1\nroute: 2"])
def test_configuration_that_cannot_be_read_is_said_so(config: str) -> None:
    with pytest.raises(ValueError, match="its configuration cannot be read"):
        intervals(config)


@pytest.fixture
def alertmanager() -> Iterator[str]:
    """One that knows nothing but its status."""

    async def status(_request: Request) -> Response:
        return JSONResponse({"config": {"original": CONFIG.replace("group_interval: 1m", "group_interval: 30m")}})

    app = Starlette(routes=[Route("/api/v2/status", status)])
    with served(uvicorn.Config(app, port=0, log_config=None, ws="none")) as url:
        yield url


def test_doctor_asks_alertmanager_for_its_intervals(alertmanager: str, tmp_path: Path) -> None:
    settings = ReceiverSettings(
        database_url=SecretStr(f"sqlite:///{tmp_path}/receiver.db"), alertmanager_url=alertmanager
    )
    found = {finding.what: finding for finding in examine(settings)}
    assert (found["store"].good, found["alertmanager"].good, found["dedup_window"].good) == (True, True, False)
    assert "20m is not above group_interval 30m of the top route" in found["dedup_window"].text


def test_alertmanager_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    settings = ReceiverSettings(
        database_url=SecretStr(f"sqlite:///{tmp_path}/receiver.db"), alertmanager_url="http://127.0.0.1:1"
    )
    found = {finding.what: str(finding) for finding in examine(settings)}
    assert found["alertmanager"] == "FAULT alertmanager: ConnectionError. Check ALERTMANAGER_URL."


def test_what_is_no_alertmanager_is_a_fault_that_tells_its_answer(alertmanager: str, tmp_path: Path) -> None:
    settings = ReceiverSettings(
        database_url=SecretStr(f"sqlite:///{tmp_path}/receiver.db"), alertmanager_url=f"{alertmanager}/elsewhere"
    )
    found = {finding.what: str(finding) for finding in examine(settings)}
    assert found["alertmanager"] == "FAULT alertmanager: it answered 404. Check ALERTMANAGER_URL."


# The rest of what it depends on


def told(settings: ReceiverSettings) -> dict[str, str]:
    """The last finding of each thing, as it is printed."""
    return {finding.what: str(finding) for finding in examine(settings)}


def with_store(url: str, **more: Any) -> ReceiverSettings:
    return ReceiverSettings(database_url=SecretStr(url), **more)


def test_store_that_is_not_made_yet_is_not_made_by_looking(tmp_path: Path) -> None:
    file = tmp_path / "receiver.db"
    assert told(with_store(f"sqlite:///{file}"))["store"] == (
        f"ok    store: sqlite:///{file} can be written; its tables are made at the first start"
    )
    assert not file.exists()


def test_store_in_use_is_written_to_and_left_as_it_was(database_url: str, store: Store) -> None:
    Outbox(store, "one").heartbeat()
    words = told(with_store(database_url))["store"]
    assert words.startswith("ok    store: ")
    assert words.endswith(f"can be written; schema {REVISION}")


def test_store_of_an_older_version_is_migrated_at_the_next_start_and_not_by_looking(tmp_path: Path) -> None:
    settings = with_store(f"sqlite:///{tmp_path}/receiver.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "receiver.db")) as older, older:
        older.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        older.execute("INSERT INTO alembic_version VALUES ('0001')")
    assert "schema 0001, brought to " in told(settings)["store"]
    assert "schema 0001, brought to " in told(settings)["store"]


def test_store_of_a_newer_version_is_a_fault(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "receiver.db")) as newer, newer:
        newer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        newer.execute("INSERT INTO alembic_version VALUES ('9999')")
    words = told(with_store(f"sqlite:///{tmp_path}/receiver.db"))["store"]
    assert words.startswith("FAULT store: ")
    assert words.endswith("was made by a newer version (schema 9999): install that one.")


def test_store_that_may_only_be_read_is_a_fault(postgresql: PostgreSQL) -> None:
    url = new_database(postgresql)
    name = url.split("/")[3].partition("?")[0]
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        postgresql.execute("CREATE ROLE reader LOGIN", database=name)
    words = told(with_store(url.replace("//owner@", "//reader@")))["store"]
    assert words == (
        "FAULT store: permission denied for schema public. Check RECEIVER_DATABASE_URL, that the database is running, "
        "and that this user may write there."
    )


def test_store_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    words = told(with_store(f"sqlite:///{tmp_path}/missing/receiver.db"))["store"]
    assert words.startswith(f"FAULT store: {tmp_path}/missing/receiver.db is not there and cannot be made.")


@pytest.mark.parametrize(
    ("silence", "required", "good", "words"),
    [
        (None, False, None, "ColdChainWatchdog was never heard."),
        (None, True, False, "ColdChainWatchdog was never heard."),
        (timedelta(minutes=3), False, True, "heard 3m ago"),
        (timedelta(minutes=10), False, False, "last heard 10m ago."),
    ],
)
def test_heartbeat_is_judged(silence: timedelta | None, required: bool, good: bool | None, words: str) -> None:
    heard = NOW - silence if silence is not None else None
    finding = judge_heartbeat(heard, NOW, HeartbeatSettings(required=required))
    assert finding.good is good
    assert finding.text.startswith(words)


@pytest.mark.parametrize(
    ("ahead", "good", "words"),
    [
        ({"the database": timedelta(0), "Alertmanager": timedelta(seconds=10)}, True, "as that of Alertmanager, the d"),
        ({"the database": timedelta(seconds=11), "x": timedelta(0)}, False, "11s ahead of that of the database."),
        ({"the database": timedelta(minutes=-2)}, False, "2m behind that of the database."),
    ],
)
def test_clock_is_judged(ahead: dict[str, timedelta], *, good: bool, words: str) -> None:
    finding = judge_clock(ahead)
    assert finding.good is good
    assert finding.text.startswith(words)


def test_clock_is_compared_with_the_database_and_the_peers(
    postgresql: PostgreSQL, sandbox: Sandbox, alertmanager: str
) -> None:
    settings = with_store(new_database(postgresql), slack=slack_settings(sandbox), alertmanager_url=alertmanager)
    host = sandbox.url.removeprefix("http://")
    assert told(settings)["clock"] == f"ok    clock: as that of {host}, Alertmanager, the database"


def test_slack_is_reached_without_a_message(tmp_path: Path, sandbox: Sandbox) -> None:
    settings = with_store(f"sqlite:///{tmp_path}/receiver.db", slack=slack_settings(sandbox))
    assert told(settings)["slack"] == (
        f"-     slack: {sandbox.url.removeprefix('http://')} is reached; whether the hook lives only a message tells: "
        "coldchain-receiver test slack"
    )
    assert sandbox.calls("slack") == []


def test_slack_that_is_not_reached_is_a_fault_without_the_hook(tmp_path: Path) -> None:
    hook = SecretStr("http://127.0.0.1:1/services/very-secret")
    settings = with_store(f"sqlite:///{tmp_path}/receiver.db", slack=SlackSettings(webhook_url=hook))
    assert told(settings)["slack"] == (
        "FAULT slack: 127.0.0.1:1 is not reached: ConnectionError. Check SLACK_WEBHOOK_URL and the firewall."
    )


def test_peers_own_words_are_told_with_what_to_do(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", stage="remain", body={"result_code": -101, "message": "인증오류입니다."})
    settings = with_store(f"sqlite:///{tmp_path}/receiver.db", sms=sms_settings(sandbox))
    assert told(settings)["sms"] == (
        "FAULT sms: Aligo answered -101 인증오류입니다. Check ALIGO_API_KEY and ALIGO_USER_ID, "
        "and that this machine's address is registered at Aligo."
    )


def test_channel_without_recipients_of_its_own_is_tried_and_said(tmp_path: Path, sandbox: Sandbox) -> None:
    settings = with_store(f"sqlite:///{tmp_path}/receiver.db", email=email_settings(sandbox, to=()))
    found = [str(finding) for finding in examine(settings) if finding.what == "email"]
    host, port = sandbox.smtp
    assert found == [
        f"ok    email: {host}:{port} (none)",
        "-     email: ALERT_EMAIL_TO not set: only programs that name recipients themselves use it",
    ]


def test_exporter_is_asked_where_a_report_is_due(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/receiver.db"
    asked = ReportSettings(at=("08:00",), to=("a@example.com",), exporter_url="http://127.0.0.1:1")
    assert "report" not in told(with_store(url))
    assert told(with_store(url, report=asked))["report"] == (
        "FAULT report: the exporter at http://127.0.0.1:1 is not reached: ConnectionError. Check EXPORTER_URL and that "
        "the exporter is running."
    )
