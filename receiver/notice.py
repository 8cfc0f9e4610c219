"""What a program asks to be told to people: the request checked, planned, and answered with what became of it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from receiver.alertmanager import mended
from receiver.audiences import DeliveredSeverity
from receiver.channels import CHANNELS, ChannelName
from receiver.channels.email import Addresses
from receiver.channels.sms import Numbers
from receiver.notification import Alert, Notification
from receiver.outbox import Accepted, Asked, DeliveryRecord, Outbox
from receiver.routing import Moment, PlannedDelivery, Receipt, Routing
from receiver.settings import NotifySettings, ReceiverSettings
from receiver.tables import OPEN_STATES

__all__ = [
    "ALERT_NAME",
    "InvalidNoticeError",
    "Notice",
    "Outcome",
    "Plan",
    "Posted",
    "outcome",
    "plan",
    "post",
    "read",
]

ALERT_NAME = "ColdChainNotify"
"""What routes may match a program's own messages by."""

DIRECT = "(direct)"
"""The audience of recipients that a program names itself. No group can be called so by accident."""

_MOST_RECIPIENTS = 100
_LONGEST_TITLE = 200
_LONGEST_MESSAGE = 20_000
_PENDING = (*OPEN_STATES, "merged")
_STATES = {
    "held": "held until the quiet hours are over",
    "suppressed": "not sent in quiet hours",
    "merged": "sent as part of a digest",
}
_WORDS = {
    "sent": "알림이 전송되었습니다",
    "some": "일부 채널에만 알림이 전송되었습니다",
    "none": "알림이 전송되지 않았습니다",
    "trying": "알림을 저장했으며 아직 전송이 끝나지 않았습니다",
    "some trying": "일부 채널에 알림이 전송되었고 나머지는 아직 전송이 끝나지 않았습니다",
}


class InvalidNoticeError(Exception):
    """The request cannot be carried out; the message names the field and what is wrong with it."""


def _said(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _once(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values is not None and not values:
        raise ValueError("name at least one channel, or leave it out: the level decides then")
    return tuple(dict.fromkeys(values)) if values is not None else None


class Notice(BaseModel):
    """The body of `POST /api/v1/monitoring/notify`, and what `send_alert` is called with."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    title: Annotated[str, Field(max_length=_LONGEST_TITLE), AfterValidator(_said)]
    message: Annotated[str, Field(max_length=_LONGEST_MESSAGE), AfterValidator(_said)]
    level: DeliveredSeverity = "info"
    category: Literal["system", "database", "business", "monitoring"] = "system"
    channels: Annotated[tuple[ChannelName, ...] | None, AfterValidator(_once)] = None
    email_recipients: Annotated[Addresses, Field(max_length=_MOST_RECIPIENTS)] | None = None
    sms_recipients: Annotated[Numbers, Field(max_length=_MOST_RECIPIENTS)] | None = None
    slack_recipients: Annotated[tuple[str, ...], Field(max_length=_MOST_RECIPIENTS)] | None = None
    """Names of configured hooks."""

    def recipients(self, channel: str) -> tuple[str, ...]:
        """Those that the request names itself; empty: the configured ones."""
        named = {"email": self.email_recipients, "sms": self.sms_recipients, "slack": self.slack_recipients}
        return named[channel] or ()

    @property
    def digest(self) -> str:
        """The same for the same request."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def notification(self, now: datetime) -> Notification:
        """As the outbox keeps it: a group of its own with one alert that never ends."""
        name = uuid.uuid4().hex
        alert = Alert(
            fingerprint=name[:16],
            firing=True,
            starts_at=now,
            labels={"alertname": ALERT_NAME, "severity": self.level, "category": self.category},
            annotations={"summary": self.title, "description": self.message},
        )
        return Notification(group_key=f"notify:{name}", alerts=(alert,))


@dataclass(frozen=True)
class Outcome:
    """What became of a notice so far, channel by channel, as the guide's answer tells it."""

    results: Mapping[str, bool]
    pending: tuple[str, ...]
    errors: Mapping[str, str]
    notification_id: int | None

    def document(self) -> dict[str, Any]:
        """The guide's fields, and beside them what is still being tried, why not, and the number in the history."""
        return {
            "success": bool(self.results) and all(self.results.values()),
            "results": dict(self.results),
            "message": _WORDS[self._state()],
            "pending": list(self.pending),
            "errors": dict(self.errors),
            "notification": self.notification_id,
        }

    def _state(self) -> str:
        delivered = [channel for channel, done in self.results.items() if done]
        if delivered and len(delivered) == len(self.results):
            return "sent"
        if self.pending:
            return "some trying" if delivered else "trying"
        return "some" if delivered else "none"


def read(document: object, settings: ReceiverSettings) -> Notice:
    """Raises InvalidNoticeError naming every field that is wrong."""
    if not isinstance(document, dict):
        raise InvalidNoticeError("the body must be an object")
    try:
        notice = Notice.model_validate(mended(document))
    except ValidationError as error:
        raise InvalidNoticeError("; ".join(_problem(one) for one in error.errors())) from None
    problems = [*_not_allowed(notice, settings.notify), *_unknown_hooks(notice, settings)]
    if problems:
        raise InvalidNoticeError("; ".join(problems))
    return notice


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "body"
    words = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        words = f"unknown field; known are {', '.join(Notice.model_fields)}"
    elif error["type"] == "missing":
        words = "is missing"
    elif error["type"] == "tuple_type":
        words = "expected a list, as in [a, b]"
    elif error["type"] == "too_long":
        words = f"at most {error['ctx']['max_length']} of them"
    return f"{place}: {words}"


def _not_allowed(notice: Notice, settings: NotifySettings) -> Iterable[str]:
    """Recipients of the program's own choice; the configured ones are always allowed."""
    domains = {domain.lower().removeprefix("@") for domain in settings.allowed_email_domains}
    for position, address in enumerate(notice.email_recipients or (), 1):
        if domains and address.rpartition("@")[2].lower() not in domains:
            yield f"email_recipients: number {position} is not in a domain of notify.allowed_email_domains"
    prefixes = tuple(settings.allowed_sms_prefixes)
    for position, number in enumerate(notice.sms_recipients or (), 1):
        if prefixes and not number.startswith(prefixes):
            yield f"sms_recipients: number {position} begins with none of notify.allowed_sms_prefixes"


def _unknown_hooks(notice: Notice, settings: ReceiverSettings) -> Iterable[str]:
    known = settings.slack.addresses
    for hook in notice.slack_recipients or ():
        if hook not in known:
            yield f"slack_recipients: there is no hook of that name; there is: {', '.join(known) or 'none'}"


@dataclass(frozen=True)
class Plan:
    """Whom a notice goes to, and what is wrong with the channels that reach nobody."""

    channels: tuple[str, ...]
    """Those asked for: by name, or by the level among those that are on."""
    deliveries: Sequence[PlannedDelivery]
    errors: Mapping[str, str]


def plan(notice: Notice, routing: Routing, settings: ReceiverSettings, now: datetime, *, quiet: bool = True) -> Plan:
    """`quiet` False: whatever the hour."""
    alert = notice.notification(now).alerts[0]
    moment = Moment(routing.by_channels(notice.channels) if notice.channels else routing, now)
    configured = moment.take(alert).receipts
    unable = {name: lacking for name, lacking in settings.unable.items() if lacking}
    found: dict[str, list[Receipt]] = {}
    errors: dict[str, str] = {}
    for channel in _asked(notice, settings, configured):
        named = notice.recipients(channel)
        receipts = (
            list(_direct(channel, named, routing, settings.locale))
            if named
            else [receipt for receipt in configured if receipt.channel == channel]
        )
        if channel in unable:
            errors[channel] = f"off, not set: {', '.join(unable[channel])}"
        elif not receipts:
            errors[channel] = _nobody(channel, settings)
        found[channel] = [] if channel in errors else receipts
    return Plan(
        channels=tuple(found),
        deliveries=[
            PlannedDelivery(
                to=receipt,
                positions=(0,),
                severity=notice.level,
                firing=True,
                quiet=moment.quiet(receipt.channel, receipt.audience, notice.level) if quiet else None,
            )
            for receipts in found.values()
            for receipt in receipts
        ],
        errors=errors,
    )


def _asked(notice: Notice, settings: ReceiverSettings, configured: Iterable[Receipt]) -> Sequence[str]:
    if notice.channels is not None:
        return notice.channels
    by_level: Sequence[str] = getattr(settings.channels, notice.level)
    routed = {receipt.channel for receipt in configured}
    on = [name for name in CHANNELS if name in routed or (name in by_level and notice.recipients(name))]
    return on or by_level  # where all of them are off, the answer says so


def _direct(channel: str, named: Sequence[str], routing: Routing, locale: str) -> Iterable[Receipt]:
    if channel in routing.one_by_one:
        for one in named:
            yield Receipt(channel, one, DIRECT, locale, (one,))
    else:
        # a rate of their own: what one program tells somebody holds back no other's
        lane = hashlib.sha256(",".join(sorted(named)).encode()).hexdigest()[:16]
        yield Receipt(channel, lane, DIRECT, locale, tuple(named))


def _nobody(channel: str, settings: ReceiverSettings) -> str:
    missing = settings.missing[channel]
    return f"no recipients: give {channel}_recipients" + (f", or set {', '.join(missing)}" if missing else "")


def trial(channel: str, level: str, locale: str) -> dict[str, Any]:
    """The request that tests a channel with a level."""
    if locale == "ko":
        title, message = "테스트 알림", f"{channel} 채널로 보낸 {level} 레벨의 테스트 알림입니다. 조치할 것은 없습니다."
    else:
        title, message = "Test", f"A test of the channel {channel} with the level {level}. Nothing is wrong."
    return {"title": title, "message": message, "level": level, "category": "monitoring", "channels": [channel]}


@dataclass(frozen=True)
class Posted:
    """A notice in the outbox."""

    notification_id: int
    plan: Plan
    accepted: Accepted


def post(
    notice: Notice,
    outbox: Outbox,
    routing: Routing,
    settings: ReceiverSettings,
    *,
    now: datetime,
    source: str,
    key: str | None = None,
    quiet: bool = True,
    give_up_after: timedelta | None = None,
) -> Posted:
    """Stores the notice with its deliveries, once for each `key`; `give_up_after` None: as configured.

    Raises StoreUnavailableError, and KeyReusedError where the key was given with another notice before.
    """
    planned = plan(notice, routing, settings, now, quiet=quiet)
    accepted = outbox.add(
        notice.notification(now),
        lambda _earlier: planned.deliveries,
        now=now,
        dedup_window=settings.dedup_window,
        give_up_after=give_up_after or settings.retry.give_up_after,
        source=source,
        asked=Asked.of(key, notice.digest) if key is not None else None,
    )
    return Posted(accepted.notification_id, planned, accepted)


def outcome(posted: Posted, records: Sequence[DeliveryRecord] | None) -> Outcome:
    """From the plan and what the outbox says; `records` None: it cannot be asked now."""
    results: dict[str, bool] = {}
    pending: list[str] = []
    errors = dict(posted.plan.errors)
    for channel in posted.plan.channels:
        of_channel = [record for record in records or () if record.channel == channel]
        results[channel] = bool(of_channel) and all(record.state == "delivered" for record in of_channel)
        if channel in errors:
            continue
        if records is None or any(record.state in _PENDING for record in of_channel):
            pending.append(channel)
        if told := "; ".join(dict.fromkeys(filter(None, map(_why, of_channel)))):
            errors[channel] = told
    return Outcome(results, tuple(pending), errors, posted.notification_id)


def _why(record: DeliveryRecord) -> str:
    """Why it is not delivered, where there is more to say than that nobody has tried yet."""
    if record.state == "delivered":
        return ""
    return record.error or _STATES.get(record.state, "")
