"""A source that reads one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy

from exporter.databases import Columns, Reader
from exporter.families import Family
from exporter.tables import Context, Table, prepare

__all__ = ["TableSource"]


class TableSource:
    """One statement a refresh; the catalogue is asked at first, after a failure, and when an unknown word turns up."""

    def __init__(self, table: Table, reader: Reader, windows: Sequence[timedelta], zone: ZoneInfo) -> None:
        self._table = table
        self._reader = reader
        self._windows = windows
        self._zone = zone
        self._columns: Columns | None = None

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        """The table's gauges at `now` (aware); raises DatabaseError."""
        columns, self._columns = self._columns, None

        def work(connection: sqlalchemy.Connection) -> tuple[Family, ...]:
            known = columns or self._reader.dialect.columns(connection, self._table.name)
            context = Context(self._reader.dialect, now, self._zone)
            families = prepare(self._table, known, self._windows, context).families(connection)
            self._columns = known
            return families

        return self._reader.read(work, timeout)

    def rest(self, seconds: float) -> None:
        """The next refresh is that far away."""
        self._reader.rest(seconds)

    def close(self) -> None:
        """Gives up the connection."""
        self._reader.close()
