"""The doctor's judgement of Alertmanager's intervals."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.doctor import Intervals, examine, intervals, judge_window
from receiver.settings import ReceiverSettings
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
