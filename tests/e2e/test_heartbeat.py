"""The death of the monitoring itself is told by the receiver alone, and so is its return."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.databases import SQLite
from tests.e2e.chain import Chain, running_chain
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

# Alertmanager repeats the heartbeat every 3 s here: a machine so busy that six of them are late raises no false alarm.
SETTINGS = "heartbeat: {missing_after: 20s}\n"
TITLE = "모니터링 중단"


def heard(chain: Chain) -> float | None:
    """When the receiver heard the heartbeat last."""
    name = "coldchain_receiver_heartbeat_timestamp_seconds "
    lines = httpx.get(chain.url("receiver", "/metrics")).text.splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), None)


def told(chain: Chain, *, resolved: bool) -> tuple[int, int, int]:
    """How many mails, Slack messages and SMS tell of the alarm, or of its end."""
    begins = {"mail": "[해소]", "slack": "✅ [해소]", "sms": "[해소]"}
    if not resolved:
        begins = {"mail": "[CRITICAL]", "slack": ":rotating_light: [CRITICAL]", "sms": "[위험]"}
    return (
        len([mail for mail in chain.mails(TITLE) if mail["subject"] == f"{begins['mail']} {TITLE}"]),
        len(chain.slacks(f"'{begins['slack']} {TITLE}'")),
        len([sms for sms in chain.texts(TITLE) if sms["msg"].startswith(f"{begins['sms']} {TITLE}")]),
    )


def test_prometheus_dies_and_comes_back(tmp_path: Path, sqlite: SQLite) -> None:
    with running_chain(tmp_path, sqlite.url, receiver_settings=SETTINGS) as chain:
        first = until(lambda: heard(chain), "the first heartbeat is heard", 90)
        until(lambda: (heard(chain) or 0) > first + 20, "it goes on for longer than it may be missing", 60)
        assert told(chain, resolved=False) == (0, 0, 0)

        # 1. Prometheus stops: one critical message on each channel, with what was last heard.
        chain.processes["prometheus"].end()
        until(lambda: told(chain, resolved=False) == (1, 1, 1), "all three channels tell", 120)
        (mail,) = chain.mails(TITLE)
        assert mail["subject"] == f"[CRITICAL] {TITLE}"
        assert "모니터링 정상 동작 신호가 20초 동안 도착하지 않았습니다." in mail["text"]
        assert "마지막 신호: " in mail["text"]
        assert "/runbooks/ko/ColdChainWatchdog.md" in mail["text"]
        assert chain.mails("ColdChainWatchdog", to="native@example.com") == []

        # 2. The receiver starts again: it knows that it has told.
        chain.processes["receiver"].end()
        chain.run("receiver")
        chain.wait_ready("receiver")

        # 3. Prometheus is back: resolved, on each channel.
        chain.run("prometheus")
        until(lambda: told(chain, resolved=True) == (1, 1, 1), "all three channels tell of the end", 120)
        assert told(chain, resolved=False) == (1, 1, 1)
