"""The connections that no source has for itself: a few for all who ask seldom, each for one of them at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy

from exporter.databases.base import DatabaseError, Dialect, Failure, Reader
from exporter.databases.urls import dialect_for, open_reader

__all__ = ["CONNECTIONS", "Shared", "SharedReader"]

CONNECTIONS = 5
"""At once, of the whole process."""

T = TypeVar("T")


class Shared:
    """At most `limit` connections, in the order in which they are asked for; whoever gets none in time fails.

    None is opened behind those that hang.
    """

    def __init__(self, limit: int = 1) -> None:
        self._limit = limit
        self._used = 0
        self._free: list[tuple[sqlalchemy.URL, Reader]] = []
        self._next_use: dict[SharedReader, float] = {}
        self._waiting: deque[object] = deque()
        self._change = threading.Condition()

    def reader(self, url: sqlalchemy.URL, connect_timeout: float) -> SharedReader:
        """A way to the database that has not connected yet; the time-out is in seconds."""
        return SharedReader(self, url, connect_timeout)

    def resize(self, limit: int) -> None:
        """From now on so many; those above it are closed when they come back."""
        with self._change:
            self._limit = limit
            self._change.notify_all()

    def take(self, url: sqlalchemy.URL, connect_timeout: float, patience: float) -> Reader:
        """A reader that nobody else has; raises DatabaseError after `patience` seconds."""
        turn = object()
        with self._change:
            self._waiting.append(turn)
            mine = self._change.wait_for(lambda: self._used < self._limit and self._waiting[0] is turn, patience)
            self._waiting.remove(turn)
            self._change.notify_all()
            if not mine:
                raise DatabaseError(
                    "no connection was free within the time-out: other queries hold those that all of them share",
                    Failure.BUSY,
                    "coldchain_source_duration_seconds tells which take long; give those a longer interval or an index",
                )
            self._used += 1
            known = next((one for one in reversed(self._free) if one[0] == url), None)
            if known is not None:
                self._free.remove(known)
            surplus = self._surplus()
        _close(surplus)
        return known[1] if known is not None else open_reader(url, connect_timeout)

    def give_back(self, url: sqlalchemy.URL, reader: Reader) -> None:
        """The reader is free for the next one."""
        with self._change:
            self._used -= 1
            self._free.append((url, reader))
            surplus = self._surplus()
            self._change.notify_all()
        _close(surplus)

    def rest(self, who: SharedReader, until: float | None) -> None:
        """Who comes back at that monotonic time (None: never); what nobody needs within a minute is closed."""
        with self._change:
            if until is None:
                self._next_use.pop(who, None)
            else:
                self._next_use[who] = until
            soon = time.monotonic() + Reader.IDLE_SECONDS
            wanted = {one.url for one, moment in self._next_use.items() if moment <= soon}
            idle = [reader for url, reader in self._free if url not in wanted]
            self._free = [(url, reader) for url, reader in self._free if url in wanted]
        _close(idle)

    def _surplus(self) -> list[Reader]:
        count = max(0, len(self._free) + self._used - self._limit)
        surplus, self._free = self._free[:count], self._free[count:]
        return [reader for _, reader in surplus]


def _close(readers: list[Reader]) -> None:
    for reader in readers:
        reader.close()


class SharedReader:
    """Reads as a Reader does, over whichever of the shared connections is free."""

    def __init__(self, shared: Shared, url: sqlalchemy.URL, connect_timeout: float) -> None:
        self.dialect: Dialect = dialect_for(url.get_backend_name())
        self.url = url
        self._shared = shared
        self._connect_timeout = connect_timeout
        self._reader: Reader | None = None

    def wait(self, seconds: float) -> None:
        """Takes a connection for the next use; raises DatabaseError where none is free within so many seconds."""
        self._reader = self._taken(seconds)

    def read(self, work: Callable[[sqlalchemy.Connection], T], timeout: float) -> T:
        """What `work` finds in a read-only transaction within `timeout` seconds, after waiting as long at most."""
        reader = self._reader = self._taken(timeout)
        try:
            return reader.read(work, timeout)
        finally:
            self._give_back()

    def rest(self, seconds: float) -> None:
        """The next use is that far away."""
        self._shared.rest(self, time.monotonic() + seconds)

    def close(self) -> None:
        """The end."""
        self._give_back()
        self._shared.rest(self, None)

    def _taken(self, patience: float) -> Reader:
        return self._reader or self._shared.take(self.url, self._connect_timeout, patience)

    def _give_back(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._shared.give_back(self.url, reader)
