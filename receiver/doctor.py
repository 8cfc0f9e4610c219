"""`coldchain-receiver doctor`: tries every outside thing that the receiver depends on, and says what to do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from receiver import report
from receiver.channels import DeliveryError
from receiver.channels.email import Email
from receiver.channels.sms import Sms
from receiver.notification import HEARTBEAT
from receiver.outbox import Outbox
from receiver.report import ExporterError
from receiver.settings import HeartbeatSettings, ReceiverSettings
from receiver.store import Store, StoreUnavailableError, read_url
from receiver.tables import REVISION
from serving import door
from serving.settings import parse_duration

__all__ = [
    "Finding",
    "Intervals",
    "examine",
    "examine_door",
    "intervals",
    "judge_clock",
    "judge_heartbeat",
    "judge_window",
]

_TIMEOUT_SECONDS = 5
_CLOCKS_DIFFER = timedelta(seconds=10)  # a third of a lease; a Date header is good to a second


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


def examine_door(options: argparse.Namespace, settings: ReceiverSettings) -> Iterator[Finding]:
    """Whether it would listen as its flags say."""
    problems = list(door.problems(options, token=settings.token is not None))
    yield from (Finding("settings", False, problem) for problem in problems)
    good, text = door.port(options, "receiver")
    if text not in problems:
        yield Finding("port", good, text)


def examine(settings: ReceiverSettings) -> Iterator[Finding]:
    """One finding after the other, as they come in."""
    clocks: dict[str, timedelta] = {}
    found = _store(settings, clocks)
    yield found
    if found.good:
        yield _heartbeat(settings)
    checks: Mapping[str, Callable[[], Finding]] = {
        "email": lambda: _email(settings),
        "slack": lambda: _slack(settings, clocks),
        "sms": lambda: _sms(settings),
    }
    for name, check in checks.items():
        unable = settings.unable[name]
        yield Finding(name, None, f"off, not set: {', '.join(unable)}") if unable else check()
        missing = settings.missing[name]
        if missing and not unable:
            yield Finding(
                name, None, f"{', '.join(missing)} not set: only programs that name recipients themselves use it"
            )
    if settings.report.at:
        yield _exporter(settings)
    yield from _alertmanager(settings, clocks)
    if clocks:
        yield judge_clock(clocks)


def judge_clock(ahead: Mapping[str, timedelta]) -> Finding:
    """By how much this machine's clock is ahead of others'. Leases and retries are times that receivers share."""
    where, most = max(ahead.items(), key=lambda one: abs(one[1]))
    if abs(most) > _CLOCKS_DIFFER:
        way = "ahead of" if most > timedelta(0) else "behind"
        return Finding(
            "clock",
            False,
            f"{_short(abs(most))} {way} that of {where}. Have both set by NTP (timedatectl set-ntp true).",
        )
    return Finding("clock", True, f"as that of {', '.join(sorted(ahead))}")


def judge_heartbeat(heard: datetime | None, now: datetime, rule: HeartbeatSettings) -> Finding:
    """Whether ColdChainWatchdog comes."""
    what = "heartbeat"
    if heard is None:
        return Finding(
            what,
            False if rule.required else None,
            f"{HEARTBEAT} was never heard. Load the shipped rules in Prometheus, and have Alertmanager send it here.",
        )
    silence = _short(now - heard)
    if now - heard >= rule.missing_after:
        return Finding(
            what,
            False,
            f"last heard {silence} ago. See whether Prometheus and Alertmanager run and reach the receiver's /webhook.",
        )
    return Finding(what, True, f"heard {silence} ago")


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


def _store(settings: ReceiverSettings, clocks: dict[str, timedelta]) -> Finding:
    url = read_url(settings.database_url.get_secret_value())
    store = Store(url)
    try:
        condition = store.inspect()
    except StoreUnavailableError as error:
        return Finding(
            "store",
            False,
            f"{error}. Check RECEIVER_DATABASE_URL, that the database is running, and that this user may write there.",
        )
    finally:
        store.close()
    if condition.clock is not None:
        clocks["the database"] = datetime.now(UTC) - condition.clock
    where = url.set(query={}).render_as_string(hide_password=True)
    if not condition.readable:
        return Finding(
            "store", False, f"{where} was made by a newer version (schema {condition.revision}): install that one."
        )
    if condition.revision is None:
        return Finding("store", True, f"{where} can be written; its tables are made at the first start")
    if condition.revision != REVISION:
        older = f"schema {condition.revision}, brought to {REVISION} at the next start"
        return Finding("store", True, f"{where} can be written; {older}")
    return Finding("store", True, f"{where} can be written; schema {condition.revision}")


def _heartbeat(settings: ReceiverSettings) -> Finding:
    store = Store(read_url(settings.database_url.get_secret_value()))
    try:
        condition = store.inspect()
        heard = Outbox(store, "doctor").heartbeat() if condition.revision == REVISION else None
    except StoreUnavailableError as error:
        return Finding("heartbeat", False, f"cannot be looked up: {error}.")
    finally:
        store.close()
    return judge_heartbeat(heard, datetime.now(UTC), settings.heartbeat)


def _email(settings: ReceiverSettings) -> Finding:
    try:
        return Finding("email", True, Email(settings.email).check())
    except DeliveryError as error:
        return Finding(
            "email", False, f"{_bare(error)}. Check SMTP_HOST, SMTP_PORT, SMTP_TLS, SMTP_USER, SMTP_PASSWORD."
        )


def _slack(settings: ReceiverSettings, clocks: dict[str, timedelta]) -> Finding:
    """The hooks' hosts are asked for their front page: a hook answers nothing that would not be a message."""
    hosts = set()
    for address in settings.slack.addresses.values():
        parts = urlsplit(address.get_secret_value())
        host = parts.netloc.rpartition("@")[2]
        hosts.add(host)
        try:
            answer = requests.get(f"{parts.scheme}://{host}/", timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            return Finding(
                "slack",
                False,
                f"{host} is not reached: {type(error).__name__}. Check SLACK_WEBHOOK_URL and the firewall.",
            )
        _read_clock(host, answer, clocks)
    reached = ", ".join(sorted(hosts))
    return Finding(
        "slack",
        None,
        f"{reached} is reached; whether the hook lives only a message tells: coldchain-receiver test slack",
    )


def _exporter(settings: ReceiverSettings) -> Finding:
    try:
        document = report.fetch(settings.report)
    except ExporterError as error:
        return Finding("report", False, f"{error}. Check EXPORTER_URL and that the exporter is running.")
    return Finding("report", True, f"the exporter says {document['status']}")


def _read_clock(where: str, answer: requests.Response, clocks: dict[str, timedelta]) -> None:
    try:
        told = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return
    if told.tzinfo is not None:
        clocks[where] = datetime.now(UTC) - told


def _sms(settings: ReceiverSettings) -> Finding:
    try:
        balance = Sms(settings.sms).balance()
    except DeliveryError as error:
        return Finding(
            "sms",
            False,
            f"{_bare(error)}. "
            "Check ALIGO_API_KEY and ALIGO_USER_ID, and that this machine's address is registered at Aligo.",
        )
    if not balance.sms:
        return Finding("sms", False, "the balance does not pay for a single message: top it up at Aligo")
    return Finding("sms", True, f"the balance pays for {balance.sms} short or {balance.lms} long messages")


def _alertmanager(settings: ReceiverSettings, clocks: dict[str, timedelta]) -> Iterator[Finding]:
    if settings.alertmanager_url is None:
        yield Finding("alertmanager", None, "ALERTMANAGER_URL is not set: its intervals are not checked")
        return
    try:
        answer = requests.get(f"{settings.alertmanager_url.rstrip('/')}/api/v2/status", timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        _read_clock("Alertmanager", answer, clocks)
        found = intervals(answer.json()["config"]["original"])
    except requests.HTTPError as error:
        yield Finding("alertmanager", False, f"it answered {error.response.status_code}. Check ALERTMANAGER_URL.")
        return
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        # the words of the others hold the address, which may hold a password
        words = str(error) if type(error) is ValueError else type(error).__name__
        yield Finding("alertmanager", False, f"{words}. Check ALERTMANAGER_URL.")
        return
    if not found:
        yield Finding("alertmanager", False, "none of its routes leads to a webhook: add the receiver's /webhook")
        return
    yield Finding("alertmanager", True, f"{len(found)} of its routes lead to a webhook")
    yield judge_window(settings.dedup_window, found)


def _bare(error: Exception) -> str:
    """Without the full stop that some peers' own words end with."""
    return str(error).rstrip(".")


def _short(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
