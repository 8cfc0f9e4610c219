"""What every channel is: one message to some recipients, tried once. Each channel is a file of its own here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Literal, Protocol, TypeAlias, get_args

from receiver.notification import Severity

__all__ = ["CHANNELS", "Channel", "ChannelName", "DeliveryError", "Doubt", "Message", "Outcome", "printable"]

ChannelName: TypeAlias = Literal["email", "slack", "sms"]

CHANNELS: tuple[ChannelName, ...] = get_args(ChannelName)


class DeliveryError(Exception):
    """Says in the peer's own words why a message did not get through, without any secret."""

    def __init__(
        self,
        text: str,
        *,
        permanent: bool = False,
        retry_after: timedelta | None = None,
        uncertain: bool = False,
    ) -> None:
        """`permanent`: trying again is no use. `retry_after`: what the peer asked for. `uncertain`: it may be there."""
        super().__init__(printable(text))
        self.permanent = permanent
        self.retry_after = retry_after
        self.uncertain = uncertain


def printable(text: str) -> str:
    """One line of a peer's words, without what a store cannot hold (NUL, half a surrogate) or a page would not show."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


@dataclass(frozen=True)
class Message:
    """A message in its words. What each part is, the channel's templates know."""

    id: str
    """The same for every attempt, so that a peer may see that it has it already."""
    thread: str
    """The same for all messages of a group."""
    severity: Severity
    firing: bool
    parts: Mapping[str, str]


Outcome: TypeAlias = Mapping[str, DeliveryError | str | None]
"""Recipient → why the peer did not take the message; or else what the peer calls it, None where it gives it no name."""


@dataclass(frozen=True)
class Doubt:
    """An earlier attempt ended without anyone knowing whether the peer took the message."""

    since: datetime
    others: frozenset[str] = frozenset()
    """What the peer calls those messages that it is known to have taken since."""


class Channel(Protocol):
    """One connection's worth of a channel, used by one thread at a time. It never sleeps and never tries again."""

    name: ClassVar[str]

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:
        """Hands the message over; raises DeliveryError where that failed for all alike."""

    def close(self) -> None:
        """Lets go of what is open."""
