"""What arrived, in its order, and every attempt with its answer: kept in memory, the newest of each channel."""

import email
import email.message
import email.policy
import itertools
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

Document = dict[str, Any]


class Message(Protocol):
    """Something that arrived."""

    @property
    def channel(self) -> str:
        """smtp, slack or aligo."""

    def document(self) -> Document:
        """Its facts as JSON."""


@dataclass(frozen=True)
class Mail:
    """A mail as its envelope and its bytes."""

    mail_from: str
    recipients: tuple[str, ...]
    refused: Mapping[str, int]
    tls: bool
    user: str | None
    raw: bytes = field(repr=False)
    channel: str = "smtp"

    def document(self) -> Document:
        """Envelope, raw mail, and what a mail program would show of it."""
        message = email.message_from_bytes(self.raw, policy=email.policy.default)
        headers = [(name, _header(name, value)) for name, value in message.raw_items()]
        first = {name.lower(): value for name, value in reversed(headers)}
        parts = [part for part in message.walk() if not part.is_multipart()]
        bodies = [part for part in parts if part.get_content_disposition() != "attachment" and not part.get_filename()]
        return {
            "mail_from": self.mail_from,
            "recipients": list(self.recipients),
            "refused": dict(self.refused),
            "tls": self.tls,
            "user": self.user,
            "size": len(self.raw),
            "raw": self.raw.decode("utf-8", "replace"),
            "headers": headers,
            "subject": first.get("subject", ""),
            "from": first.get("from", ""),
            "to": first.get("to", ""),
            "text": next((_text(part) for part in bodies if part.get_content_type() == "text/plain"), None),
            "html": next((_text(part) for part in bodies if part.get_content_type() == "text/html"), None),
            "attachments": [
                {"filename": part.get_filename(), "content_type": part.get_content_type()}
                for part in parts
                if part not in bodies
            ],
        }


@dataclass(frozen=True)
class SlackPost:
    """What was posted to a webhook."""

    hook: str
    payload: Document
    channel: str = "slack"

    def document(self) -> Document:
        """Hook and payload."""
        return {"hook": self.hook, "payload": self.payload}


@dataclass(frozen=True)
class Sms:
    """A message to one number."""

    mid: int
    mdid: int
    sender: str
    receiver: str
    msg: str
    bytes: int
    msg_type: str
    title: str
    test: bool
    channel: str = "aligo"

    def document(self) -> Document:
        """All its fields."""
        return asdict(self)


@dataclass(frozen=True)
class Call:
    """An attempt and what it was answered."""

    id: int
    time: str
    channel: str
    stage: str
    answer: str
    accepted: bool


@dataclass(frozen=True)
class _Arrival:
    id: int
    time: str
    message: Message


class Inbox:
    """The newest messages and calls of each channel."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._ids = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.session = secrets.token_hex(4)
        self._arrivals: dict[str, deque[_Arrival]] = {}
        self._calls: dict[str, deque[Call]] = {}

    def add(self, message: Message) -> None:
        """Keep a message."""
        arrivals = self._arrivals.setdefault(message.channel, deque(maxlen=self._keep))
        arrivals.append(_Arrival(next(self._ids), _now(), message))

    def note(self, channel: str, stage: str, answer: str, *, accepted: bool) -> None:
        """Keep an attempt."""
        calls = self._calls.setdefault(channel, deque(maxlen=self._keep))
        calls.append(Call(next(self._ids), _now(), channel, stage, answer, accepted))

    def messages(self, channel: str | None = None, after: int = 0, limit: int | None = None) -> list[Document]:
        """Those after an id, oldest first; of too many the newest of each channel."""
        found: list[_Arrival] = []
        for name, arrivals in self._arrivals.items():
            if channel in (None, name):
                newer = [arrival for arrival in arrivals if arrival.id > after]
                found += newer[-limit:] if limit else newer
        found.sort(key=lambda arrival: arrival.id)
        return [
            {"id": one.id, "time": one.time, "channel": one.message.channel, **one.message.document()} for one in found
        ]

    def calls(self, channel: str | None = None) -> list[Document]:
        """All attempts, oldest first."""
        found = [call for name, calls in self._calls.items() if channel in (None, name) for call in calls]
        return [asdict(call) for call in sorted(found, key=lambda call: call.id)]

    def mail(self, message_id: int) -> Mail | None:
        """The mail of that id."""
        for arrival in self._arrivals.get("smtp", ()):
            if arrival.id == message_id and isinstance(arrival.message, Mail):
                return arrival.message
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _header(name: str, raw: str) -> str:
    # The standard library's header parser raises on some malformed headers (bpo-39384 and others): those stay as sent.
    try:
        value = str(email.policy.default.header_fetch_parse(name, raw))
    except (AttributeError, IndexError, LookupError, TypeError, ValueError):
        value = raw
    return value.encode("utf-8", "replace").decode()


def _text(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        return raw.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:  # a charset that nobody knows
        return raw.decode("utf-8", "replace")
