"""The watch over the watcher: an alarm when ColdChainWatchdog stays away, and a ping outwards while it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo

import requests
import structlog

from receiver.channels import CHANNELS
from receiver.notification import Alert, Notification
from receiver.outbox import Accepted, NotificationRecord, Outbox, Watched
from receiver.routing import Routing, planner
from receiver.settings import ReceiverSettings
from receiver.store import StoreUnavailableError

__all__ = ["ALARM_NAME", "Verdict", "Watch", "decide", "in_zone"]

log = structlog.get_logger(__name__)

ALARM_NAME = "ColdChainHeartbeatMissing"
SOURCE = "heartbeat"

_FINGERPRINT = "coldchain-heartbeat"
_MOST_SECONDS_BETWEEN_LOOKS = 15.0
_LOOKS = 20  # within missing_after, so that the alarm comes no more than a twentieth late
# Of missing_after: a pause after which it is our own doing that nothing was heard. Longer than a restart, and short
# enough that a heartbeat every third of missing_after still comes in time after it.
_PATIENCE = 1 / 4
_PING_SECONDS = 10
_TIMES = "times"  # the annotation that holds the times which the description tells, in UTC


@dataclass(frozen=True)
class Verdict:
    """What to tell people: that the heartbeat is missing since `at`, or that it is back since then."""

    missing: bool
    at: datetime


def decide(watched: Watched, now: datetime, *, missing_after: timedelta, required: bool) -> Verdict | None:
    """None: nothing new. Two receivers that decide the same alarm give it the same time, by which one of them wins.

    Silence counts only while somebody listened. Where nothing was ever heard it counts only if that is `required`.
    """
    heard, since = watched.heard, watched.listening_since
    raised = watched.alarm is not None and watched.alarm.firing
    if heard is not None and now - heard < missing_after:
        return Verdict(missing=False, at=heard) if raised else None
    if raised or (heard is None and not required) or now - max(heard or since, since) < missing_after:
        return None
    return Verdict(missing=True, at=(heard or since) + missing_after)


class Watch:
    """Looks again and again; each receiver on a store has one."""

    def __init__(
        self,
        outbox: Outbox,
        settings: Callable[[], ReceiverSettings],
        routing: Callable[[], Routing],
        told: Callable[[Accepted], None],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        """`settings` and `routing` give those in force; `told` is called with every alarm and every end of one."""
        self._outbox = outbox
        self._settings = settings
        self._routing = routing
        self._told = told
        self._clock = clock
        self._alive = False
        self._pinged = True

    def run(self, stopping: threading.Event) -> None:
        """Looks until it is to stop."""
        while not stopping.is_set():
            try:
                self.look()
            except StoreUnavailableError as error:
                self._alive = False
                log.warning("heartbeat not looked for", error=str(error))
            after = self._settings().heartbeat.missing_after.total_seconds()
            stopping.wait(min(after / _LOOKS, _MOST_SECONDS_BETWEEN_LOOKS))

    def run_pings(self, stopping: threading.Event) -> None:
        """Says outside that all is well, until it is to stop."""
        while not stopping.is_set():
            self.ping()
            stopping.wait(self._settings().heartbeat.ping_interval.total_seconds())

    def look(self) -> None:
        """Looks once, and tells what is new. Raises StoreUnavailableError."""
        settings, now = self._settings(), self._clock()
        rule = settings.heartbeat
        watched = self._outbox.watch(_FINGERPRINT, now=now, patience=rule.missing_after * _PATIENCE)
        self._alive = watched.heard is not None and now - watched.heard < rule.missing_after
        verdict = decide(watched, now, missing_after=rule.missing_after, required=rule.required)
        if verdict is None:
            return
        notification = self._alarm(verdict, watched, settings) if verdict.missing else self._end(verdict, watched)
        accepted = self._outbox.add(
            notification,
            planner(notification, self._routing().by_channels(CHANNELS), now),
            now=now,
            dedup_window=settings.dedup_window,
            give_up_after=settings.retry.give_up_after,
            source=SOURCE,
        )
        if accepted.duplicate:  # another receiver was first
            return
        if verdict.missing:
            log.error("heartbeat missing, people are told", last_heard=str(watched.heard))
        else:
            log.info("heartbeat heard again", at=str(verdict.at))
        self._told(accepted)

    def ping(self) -> None:
        """Says outside that the heartbeat is heard, if it is.

        Only a change is logged, and never the address: whoever has it could keep the outside watchdog calm.
        """
        url = self._settings().heartbeat.ping_url
        if url is None or not self._alive:
            return
        try:
            answer = requests.get(url.get_secret_value(), timeout=_PING_SECONDS)
            trouble = None if answer.ok else f"answered {answer.status_code}"
        except requests.RequestException as error:
            trouble = type(error).__name__
        if trouble is not None and self._pinged:
            log.warning("outside watchdog not reached", error=trouble)
        elif trouble is None and not self._pinged:
            log.info("outside watchdog reached again")
        self._pinged = trouble is None

    def _alarm(self, verdict: Verdict, watched: Watched, settings: ReceiverSettings) -> Notification:
        beat = self._outbox.last_of("alertmanager", heartbeat=True)
        last = self._outbox.last_of("alertmanager", heartbeat=False)
        alert = Alert(
            fingerprint=_FINGERPRINT,
            firing=True,
            starts_at=verdict.at,
            labels={"alertname": ALARM_NAME, "severity": "critical", "category": "monitoring"},
            annotations=_links(beat)
            | {
                "summary": "모니터링 중단",
                "summary_en": "Monitoring is silent",
                "description": _KOREAN.description(watched, beat, last, settings),
                "description_en": _ENGLISH.description(watched, beat, last, settings),
                _TIMES: " ".join(
                    time.isoformat()
                    for time in (watched.heard, last.received_at if last is not None else None)
                    if time is not None
                ),
            },
        )
        return Notification(group_key=SOURCE, alerts=(alert,))

    def _end(self, verdict: Verdict, watched: Watched) -> Notification:
        """The alarm once more, but with its end."""
        record = self._outbox.notification(watched.alarm.notification_id) if watched.alarm is not None else None
        if record is None or record.notification is None:
            raise AssertionError("an alarm that is in the history is there in full")
        alarm = record.notification
        ended = tuple(replace(alert, firing=False, ends_at=verdict.at) for alert in alarm.alerts)
        return replace(alarm, alerts=ended)


def in_zone(told: Notification, written: tzinfo, zone: tzinfo) -> Notification:
    """With the times that an alarm's description tells by the clock `written` told by the readers' own."""
    if written == zone or not any(alert.name == ALARM_NAME for alert in told.alerts):
        return told
    return replace(told, alerts=tuple(_alert_in_zone(alert, written, zone) for alert in told.alerts))


def _alert_in_zone(alert: Alert, written: tzinfo, zone: tzinfo) -> Alert:
    if alert.name != ALARM_NAME:
        return alert
    try:
        times = [datetime.fromisoformat(text) for text in alert.annotations.get(_TIMES, "").split()]
    except ValueError:  # somebody else's alert
        times = []
    annotations = dict(alert.annotations)
    for name in {"description", "description_en"} & set(annotations):
        for time in times:
            annotations[name] = annotations[name].replace(_time(time, written), _time(time, zone))
    return replace(alert, annotations=annotations)


def _origin(beat: NotificationRecord | None) -> str:
    """The Alertmanager from which the heartbeat came."""
    return beat.notification.external_url if beat is not None and beat.notification is not None else ""


def _links(beat: NotificationRecord | None) -> dict[str, str]:
    """The heartbeat's own runbook and dashboard, which say what to do when it is missing."""
    if beat is None or beat.notification is None:
        return {}
    given = beat.notification.alerts[0].annotations
    return {name: text for name, text in given.items() if name.startswith(("runbook_url", "dashboard_url"))}


@dataclass(frozen=True)
class _Words:
    silent: str
    heard: str
    never: str
    last: str
    resolved: str
    minutes: str
    seconds: str

    def description(
        self,
        watched: Watched,
        beat: NotificationRecord | None,
        last: NotificationRecord | None,
        settings: ReceiverSettings,
    ) -> str:
        """For how long nothing was heard and what that may mean; what was last heard, and when."""
        zone = settings.zone
        heard = _time(watched.heard, zone) if watched.heard is not None else self.never
        origin = _origin(beat)
        lines = [
            self.silent.format(duration=self._duration(settings.heartbeat.missing_after)),
            self.heard.format(heard=f"{heard} ({origin})" if origin else heard),
        ]
        if last is not None:
            level = f"[{last.severity.upper()}]" if last.firing else self.resolved
            lines.append(self.last.format(last=f"{_time(last.received_at, zone)} {level} {last.title}"))
        return "\n".join(lines)

    def _duration(self, time: timedelta) -> str:
        seconds = int(time.total_seconds())
        return f"{seconds}{self.seconds}" if seconds % 60 else f"{seconds // 60}{self.minutes}"


_KOREAN = _Words(
    silent="모니터링 정상 동작 신호가 {duration} 동안 도착하지 않았습니다. Prometheus나 Alertmanager가 멈췄거나 "
    "수신기와의 연결이 끊긴 것으로 보입니다. 신호가 다시 도착할 때까지는 다른 이상이 생겨도 알림이 오지 않을 수 "
    "있습니다.\n",
    heard="마지막 신호: {heard}",
    never="없음",
    last="마지막으로 받은 알림: {last}",
    resolved="[해소]",
    minutes="분",
    seconds="초",
)
_ENGLISH = _Words(
    silent="The monitoring's heartbeat has not arrived for {duration}. Prometheus or Alertmanager has stopped, or the "
    "way to the receiver is cut. Until it is back, other trouble may go unreported.\n",
    heard="Last heartbeat: {heard}",
    never="none",
    last="Last notification: {last}",
    resolved="[RESOLVED]",
    minutes=" min",
    seconds=" s",
)


def _time(time: datetime, zone: tzinfo) -> str:
    return time.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")
