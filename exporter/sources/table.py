"""A source that reads one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy

from exporter.databases import Columns, Reader
from exporter.databases.borrowed import Borrowed
from exporter.families import Family
from exporter.tables import Context, Statement, Table, prepare

__all__ = ["TableSource"]


class TableSource:
    """One statement a refresh; the catalogue is asked when a connection is new, and when an unknown status turns up."""

    def __init__(self, table: Table, reader: Reader | Borrowed, windows: Sequence[timedelta], zone: ZoneInfo) -> None:
        self._table = table
        self._reader = reader
        self._windows = windows
        self._zone = zone
        self._columns: Columns | None = None
        self._learned_on = 0  # the connection, by the reader's count

    def wait(self, seconds: float) -> None:
        """It shares nothing."""

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        """The table's gauges at `now` (aware); raises DatabaseError."""
        found = self._reader.read(lambda c: self._prepare(c, now, self._table, self._windows).run(c), timeout)
        known = self._columns.statuses if self._columns is not None else None
        if known is not None and not found.statuses <= set(known):
            self._columns = None
        return found.families

    def collect_window(self, now: datetime, timeout: float, window: timedelta) -> tuple[Family, ...]:
        """The gauges by window over one that need not be configured; raises DatabaseError."""
        table, windows = self._table.windowed, (window,)
        return self._reader.read(lambda c: self._prepare(c, now, table, windows).run(c), timeout).families

    def check(self, now: datetime, timeout: float) -> None:
        """Has the database explain the statement without running it; raises DatabaseError."""
        self._reader.read(lambda c: self._prepare(c, now, self._table, self._windows).explain(c), timeout)

    def _prepare(
        self, connection: sqlalchemy.Connection, now: datetime, table: Table, windows: Sequence[timedelta]
    ) -> Statement:
        if self._columns is None or self._learned_on != self._reader.connections:
            self._columns = self._reader.dialect.columns(connection, self._table.name)
            self._learned_on = self._reader.connections
        context = Context(self._reader.dialect, now, self._zone)
        return prepare(table, self._columns, windows, context)

    def rest(self, seconds: float) -> None:
        """The next refresh is that far away."""
        self._reader.rest(seconds)

    def close(self) -> None:
        """Gives up the connection."""
        self._reader.close()
