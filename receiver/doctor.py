"""`coldchain-receiver doctor`: tries every outside thing that the receiver depends on, and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import requests
import yaml

from receiver.channels import DeliveryError
from receiver.channels.email import Email
from receiver.channels.sms import Sms
from receiver.notification import HEARTBEAT
from receiver.settings import ReceiverSettings
from receiver.store import Store, StoreUnavailableError, read_url
from serving.settings import parse_duration

__all__ = ["Finding", "Intervals", "examine", "intervals", "judge_window"]

_TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class Finding:
    """What was found of one thing; `good` None: nothing to say yet."""

    what: str
    good: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAULT", None: "-"}[self.good]
        return f"{mark:<6}{self.what}: {self.text}"


@dataclass(frozen=True)
class Intervals:
    """Of a route of Alertmanager's that leads to a webhook."""

    route: str
    group: timedelta
    repeat: timedelta


def examine(settings: ReceiverSettings) -> Iterator[Finding]:
    """One finding after the other, as they come in."""
    yield _store(settings)
    checks: Mapping[str, Callable[[ReceiverSettings], Finding]] = {"email": _email, "slack": _slack, "sms": _sms}
    for name, check in checks.items():
        missing = settings.missing[name]
        yield Finding(name, None, f"off, not set: {', '.join(missing)}") if missing else check(settings)
    yield from _alertmanager(settings)


def judge_window(window: timedelta, found: list[Intervals]) -> Finding:
    """A retry may come a `group_interval` later, a reminder a `repeat_interval` later: the window lies between."""
    what = "dedup_window"
    for route in found:
        if window <= route.group:
            return Finding(
                what,
                False,
                f"{_short(window)} is not above group_interval {_short(route.group)} of {route.route}: what "
                "Alertmanager sends again after a lost answer would be delivered twice. Make dedup_window longer.",
            )
        if window >= route.repeat:
            return Finding(
                what,
                False,
                f"{_short(window)} is not below repeat_interval {_short(route.repeat)} of {route.route}: its reminders "
                "would be taken for duplicates. Make dedup_window shorter or repeat_interval longer.",
            )
    return Finding(what, True, f"{_short(window)}, between the intervals of {len(found)} routes")


def intervals(config: str) -> list[Intervals]:
    """Of every route to a receiver with a webhook but the heartbeat's; raises ValueError for what cannot be read."""
    try:
        document = yaml.safe_load(config)
        webhooks = {one["name"] for one in document["receivers"] if one.get("webhook_configs")}
        # Alertmanager's defaults (docs, "route")
        root = {"group_interval": "5m", "repeat_interval": "4h", **document["route"]}
        return list(_walk(root, webhooks))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its configuration cannot be read: {type(error).__name__}") from None


def _walk(route: Mapping[str, Any], webhooks: set[str]) -> Iterator[Intervals]:
    matchers = [*route.get("matchers", []), *(f"{k}={v}" for k, v in route.get("match", {}).items())]
    if any(HEARTBEAT in str(matcher) for matcher in matchers):
        return
    if route["receiver"] in webhooks:
        group, repeat = parse_duration(route["group_interval"]), parse_duration(route["repeat_interval"])
        if isinstance(group, timedelta) and isinstance(repeat, timedelta):
            yield Intervals(", ".join(str(matcher) for matcher in matchers) or "the top route", group, repeat)
    handed_down = {name: route[name] for name in ("receiver", "group_interval", "repeat_interval")}
    for child in route.get("routes", []):
        yield from _walk({**handed_down, **child}, webhooks)


def _store(settings: ReceiverSettings) -> Finding:
    url = read_url(settings.database_url.get_secret_value())
    store = Store(url)
    try:
        store.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    except StoreUnavailableError as error:
        return Finding("store", False, f"{error}. Check RECEIVER_DATABASE_URL and that the database is running.")
    finally:
        store.close()
    return Finding("store", True, url.render_as_string(hide_password=True))


def _email(settings: ReceiverSettings) -> Finding:
    try:
        return Finding("email", True, Email(settings.email).check())
    except DeliveryError as error:
        return Finding("email", False, f"{error}. Check SMTP_HOST, SMTP_PORT, SMTP_TLS, SMTP_USER and SMTP_PASSWORD.")


def _slack(_settings: ReceiverSettings) -> Finding:
    return Finding("slack", None, "configured; whether the hook lives, only a message can tell")


def _sms(settings: ReceiverSettings) -> Finding:
    try:
        balance = Sms(settings.sms).balance()
    except DeliveryError as error:
        return Finding(
            "sms",
            False,
            f"{error}. Check ALIGO_API_KEY and ALIGO_USER_ID, and that this machine's address is registered at Aligo.",
        )
    if not balance.sms:
        return Finding("sms", False, "the balance does not pay for a single message: top it up at Aligo")
    return Finding("sms", True, f"the balance pays for {balance.sms} short or {balance.lms} long messages")


def _alertmanager(settings: ReceiverSettings) -> Iterator[Finding]:
    if settings.alertmanager_url is None:
        yield Finding("alertmanager", None, "ALERTMANAGER_URL is not set: its intervals are not checked")
        return
    try:
        answer = requests.get(f"{settings.alertmanager_url.rstrip('/')}/api/v2/status", timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        found = intervals(answer.json()["config"]["original"])
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        words = str(error) if type(error) is ValueError else type(error).__name__
        yield Finding("alertmanager", False, f"{words}. Check ALERTMANAGER_URL.")
        return
    if not found:
        yield Finding("alertmanager", False, "none of its routes leads to a webhook: add the receiver's /webhook")
        return
    yield Finding("alertmanager", True, f"{len(found)} of its routes lead to a webhook")
    yield judge_window(settings.dedup_window, found)


def _short(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
