"""Alertmanager's webhook payload (version 4): body in, `Notification` out, and back for keeping."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from receiver.notification import Alert, Notification

__all__ = ["InvalidPayloadError", "dump", "mended", "parse"]

# Go's zero time: a firing alert has no end.
_NO_TIME_YEAR = 1
_LONGEST_FINGERPRINT = 64
_MOST_TRUNCATED = 10**9
_YEARS = range(1970, 3000)  # what every database and time zone can hold
# json.loads lets half a surrogate pass, which no database and no peer takes; NUL is what PostgreSQL cannot hold.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAY_HOLD_UNSTORABLE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


class InvalidPayloadError(Exception):
    """The body is not an Alertmanager payload; the message names the field and what is wrong with it."""


def parse(body: bytes) -> Notification:
    """Raises InvalidPayloadError. Unknown fields are ignored, the root `status` and `common*` are not trusted."""
    text = body.decode("utf-8", "replace")
    try:
        document = _DECODER.decode(text)
    except RecursionError:
        raise InvalidPayloadError("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidPayloadError(f"the body is not JSON: {error}") from None
    if "\x00" in text or _MAY_HOLD_UNSTORABLE.search(text):
        document = mended(document)
    if not isinstance(document, dict):
        raise InvalidPayloadError(f"the body must be an object, not {_kind(document)}")
    version = document.get("version", "4")
    if version != "4":
        raise InvalidPayloadError(f"version: only Alertmanager's version 4 is understood, not {_kind(version)}")
    alerts = _field(document, "alerts", list, "")
    if not alerts:
        raise InvalidPayloadError("alerts: must hold at least one alert")
    truncated = document.get("truncatedAlerts") or 0
    if isinstance(truncated, bool) or not isinstance(truncated, int) or not 0 <= truncated <= _MOST_TRUNCATED:
        raise InvalidPayloadError(f"truncatedAlerts: must be a number from 0 to {_MOST_TRUNCATED}")
    return Notification(
        group_key=_field(document, "groupKey", str, ""),
        alerts=tuple(_alert(entry, f"alerts[{position}]") for position, entry in enumerate(alerts)),
        truncated=truncated,
        reason=_text(document, "notification_reason", ""),
        group_labels=_table(document, "groupLabels", ""),
        external_url=_text(document, "externalURL", ""),
    )


def dump(notification: Notification) -> str:
    """The notification as `parse` reads it."""
    return _ENCODER.encode(
        {
            "version": "4",
            "groupKey": notification.group_key,
            "truncatedAlerts": notification.truncated,
            "notification_reason": notification.reason,
            "groupLabels": notification.group_labels,
            "externalURL": notification.external_url,
            "alerts": [
                {
                    "fingerprint": alert.fingerprint,
                    "status": "firing" if alert.firing else "resolved",
                    "startsAt": alert.starts_at.isoformat(),
                    "endsAt": alert.ends_at.isoformat() if alert.ends_at is not None else None,
                    "labels": alert.labels,
                    "annotations": alert.annotations,
                    "generatorURL": alert.generator_url,
                }
                for alert in notification.alerts
            ],
        }
    )


def _alert(entry: Any, place: str) -> Alert:
    if not isinstance(entry, dict):
        raise InvalidPayloadError(f"{place}: must be an object, not {_kind(entry)}")
    status = _field(entry, "status", str, place)
    if status not in ("firing", "resolved"):
        raise InvalidPayloadError(f"{place}.status: must be firing or resolved")
    fingerprint = _field(entry, "fingerprint", str, place)
    if not 0 < len(fingerprint) <= _LONGEST_FINGERPRINT:
        raise InvalidPayloadError(f"{place}.fingerprint: must have 1 to {_LONGEST_FINGERPRINT} characters")
    if "labels" not in entry:
        raise InvalidPayloadError(f"{place}.labels: is missing")
    starts_at = _time(entry, "startsAt", place)
    if starts_at is None:
        raise InvalidPayloadError(f"{place}.startsAt: is missing")
    firing = status == "firing"
    return Alert(
        fingerprint=fingerprint,
        firing=firing,
        starts_at=starts_at,
        ends_at=None if firing else _time(entry, "endsAt", place),
        labels=_table(entry, "labels", place),
        annotations=_table(entry, "annotations", place),
        generator_url=_text(entry, "generatorURL", place),
    )


def _field(owner: dict[str, Any], name: str, kind: type, place: str) -> Any:
    value = owner.get(name)
    if isinstance(value, kind):
        return value
    where = f"{place}.{name}" if place else name
    if name not in owner:
        raise InvalidPayloadError(f"{where}: is missing")
    raise InvalidPayloadError(f"{where}: must be {_KINDS[kind]}, not {_kind(value)}")


def _text(owner: dict[str, Any], name: str, place: str) -> str:
    """An optional text; null is as good as missing."""
    value: str = _field(owner, name, str, place) if owner.get(name) is not None else ""
    return value


def _table(owner: dict[str, Any], name: str, place: str) -> Mapping[str, str]:
    value = owner.get(name)
    if value is None:
        return {}
    where = f"{place}.{name}" if place else name
    if not isinstance(value, dict):
        raise InvalidPayloadError(f"{where}: must be an object, not {_kind(value)}")
    for key, text in value.items():
        if not isinstance(text, str):
            raise InvalidPayloadError(f"{where}.{key}: must be a string, not {_kind(text)}")
    return value


def _time(owner: dict[str, Any], name: str, place: str) -> datetime | None:
    """Kept to the microsecond: Alertmanager's fractions vary in length, up to the nanosecond."""
    text = _text(owner, name, place)
    if not text:
        return None
    try:
        value = datetime.fromisoformat(text)
        return None if value.year == _NO_TIME_YEAR else _aware(value).astimezone(UTC)
    except ValueError:
        raise InvalidPayloadError(
            f"{place}.{name}: must be a time with its offset, such as 2026-01-27T22:00:00Z"
        ) from None


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None or value.year not in _YEARS:
        raise ValueError
    return value


def mended(value: Any) -> Any:
    """A JSON value without what no database and no peer takes."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


# json's functions make one of these at each call that is not the plainest.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


def _kind(value: Any) -> str:
    """Names the kind of a value without repeating the value, which may be long or private."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return _KINDS.get(type(value), "a number")
