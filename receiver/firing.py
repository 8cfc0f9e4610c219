"""What fires now: what was heard last, against what Alertmanager knows, for it tells no end of what it inhibits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import requests
import structlog

from receiver.notification import SEVERITIES, Alert, Severity
from receiver.outbox import Heard

__all__ = ["Alertmanager", "Firing", "Heard", "Known", "State", "Unreachable", "firing"]

log = structlog.get_logger(__name__)

State: TypeAlias = Literal["firing", "silenced", "inhibited", "unknown"]

_TIMEOUT_SECONDS = 3
_ASK_SECONDS = 15.0
_MOST_BYTES = 64 * 2**20
# A reminder waits for its group's next turn, every group_interval (5 min where Alertmanager is not told otherwise).
_LATE = timedelta(minutes=10)


@dataclass(frozen=True)
class Known:
    """An alert as Alertmanager has it."""

    alert: Alert
    state: State


@dataclass(frozen=True)
class Unreachable:
    """Alertmanager could not be asked; its own words, or what went wrong."""

    error: str


@dataclass(frozen=True)
class Firing:
    """An alert that fires, or may: `unknown`, where nothing was heard of it for longer than it is repeated."""

    alert: Alert
    state: State
    heard_at: datetime | None
    """None: it was never notified of, for it is silenced or inhibited, or has only just begun."""


def firing(
    heard: Iterable[Heard], known: Sequence[Known] | None, now: datetime, repeated: Mapping[Severity, timedelta]
) -> list[Firing]:
    """The most urgent first, then the newest; `known` None: Alertmanager is not asked or does not answer.

    `repeated`: after how long Alertmanager tells again of what still fires.
    """
    at = {one.alert.fingerprint: one for one in heard if _is_told(one.alert)}
    found = (
        [
            Firing(one.alert, one.state, at[one.alert.fingerprint].at if one.alert.fingerprint in at else None)
            for one in known
            if _is_told(one.alert)
        ]
        if known is not None
        else [Firing(one.alert, _by_age(one, now, repeated), one.at) for one in at.values()]
    )
    return sorted(found, key=lambda one: (-SEVERITIES.index(one.alert.severity), -one.alert.starts_at.timestamp()))


def _is_told(alert: Alert) -> bool:
    return not alert.is_heartbeat and alert.severity != "none"


def _by_age(heard: Heard, now: datetime, repeated: Mapping[Severity, timedelta]) -> State:
    return "firing" if now - heard.at <= repeated[heard.alert.severity] + _LATE else "unknown"


class Alertmanager:
    """Asks every quarter of a minute in a thread of its own, so that nobody who looks waits for it."""

    def __init__(self, url: Callable[[], str | None]) -> None:
        self._url = url
        self._told = ""
        self.latest: Sequence[Known] | Unreachable | None = None
        """None: it was not asked yet, or has no address."""

    def run(self, stopping: threading.Event) -> None:
        """Until it is to stop."""
        while not stopping.is_set():
            self.ask()
            stopping.wait(_ASK_SECONDS)

    def ask(self) -> None:
        """Once."""
        url = self._url()
        if url is None:
            self.latest = None
            return
        try:
            self.latest = _fetch(url)
            self._told = ""
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
            # the words of the others hold the address, which may hold a password
            words = str(error) if type(error) is ValueError else type(error).__name__
            self.latest = Unreachable(words)
            if words != self._told:
                log.warning("alertmanager not asked", error=words)
            self._told = words


def _fetch(url: str) -> list[Known]:
    with requests.get(f"{url.rstrip('/')}/api/v2/alerts", timeout=_TIMEOUT_SECONDS, stream=True) as response:
        if response.status_code != 200:
            raise ValueError(f"answered {response.status_code}")
        body = response.raw.read(_MOST_BYTES, decode_content=True)
    return [_known(one) for one in json.loads(body)]


def _known(one: Mapping[str, Any]) -> Known:
    status = one["status"]
    state: State = "silenced" if status["silencedBy"] else "inhibited" if status["inhibitedBy"] else "firing"
    starts_at = datetime.fromisoformat(one["startsAt"]).astimezone(UTC)
    return Known(
        Alert(
            fingerprint=one["fingerprint"],
            firing=True,
            starts_at=starts_at,
            labels=one["labels"],
            annotations=one["annotations"],
            generator_url=one.get("generatorURL", ""),
        ),
        state,
    )
