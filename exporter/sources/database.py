"""The database itself: does it answer, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import sqlalchemy

from exporter.databases import DatabaseError, Failure, Reader
from exporter.databases.borrowed import Borrowed
from exporter.families import Family

__all__ = ["DatabaseSource"]


class DatabaseSource:
    """A probe that tries twice; while it fails the database counts as down."""

    def __init__(self, reader: Reader | Borrowed, timer: Callable[[], float] = time.perf_counter) -> None:
        self._reader = reader
        self._timer = timer

    def wait(self, seconds: float) -> None:
        """It shares nothing."""

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:  # noqa: ARG002 - a probe knows no time of day
        """`coldchain_database_response_seconds`; raises DatabaseError after the second failure."""
        deadline = time.monotonic() + timeout
        try:
            seconds = self._probe(timeout / 2)
        except DatabaseError:
            seconds = self._probe(max(deadline - time.monotonic(), 0.1))
        return (
            Family(
                "coldchain_database_response_seconds",
                "Round trip of the last probe of the database; absent while it is down.",
                samples={(): seconds},
            ),
        )

    def check(self, now: datetime, timeout: float) -> None:  # noqa: ARG002 - as above
        """Raises DatabaseError where the database does not answer."""
        self._probe(timeout)

    def rest(self, seconds: float) -> None:
        """The next probe is that far away."""
        self._reader.rest(seconds)

    def close(self) -> None:
        """Gives up the connection."""
        self._reader.close()

    def _probe(self, timeout: float) -> float:
        def probe(connection: sqlalchemy.Connection) -> float:
            started = self._timer()
            connection.exec_driver_sql(self._reader.dialect.probe).all()
            return self._timer() - started

        started = self._timer()
        try:
            return self._reader.read(probe, timeout)
        except DatabaseError as error:
            if error.failure is not Failure.BUSY:
                raise
            return self._timer() - started  # somebody is at work there: busy is not down
