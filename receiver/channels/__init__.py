"""What every channel is: one message to some recipients, tried once. Each channel is a file of its own here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Protocol, TypeAlias

from receiver.notification import Severity

__all__ = ["Channel", "DeliveryError", "Message", "Outcome"]


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
        super().__init__(text)
        self.permanent = permanent
        self.retry_after = retry_after
        self.uncertain = uncertain


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


Outcome: TypeAlias = Mapping[str, DeliveryError | None]
"""Recipient → None when the peer took the message, else why not."""


class Channel(Protocol):
    """One connection's worth of a channel, used by one thread at a time. It never sleeps and never tries again."""

    name: ClassVar[str]

    def send(self, message: Message, recipients: Sequence[str], *, unanswered_since: datetime | None) -> Outcome:
        """Hands the message over; raises DeliveryError where that failed for all alike.

        `unanswered_since` is when an earlier attempt ended without anyone knowing whether the peer took the message.
        """

    def close(self) -> None:
        """Lets go of what is open."""
