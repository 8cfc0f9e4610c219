"""A site's own query as a source: its rows become gauges, or it says why not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy

from exporter import sql
from exporter.databases import DatabaseError, Failure, SharedReader
from exporter.families import Family
from exporter.settings import GaugeSettings, QuerySettings

__all__ = ["QuerySource", "families"]

T = TypeVar("T")
Row = Sequence[Any]
Moment = Callable[[Any], datetime]
"""Reads a timestamp of the database; aware."""


class QuerySource:
    """One statement a refresh, over a connection that all queries share."""

    def __init__(self, query: QuerySettings, reader: SharedReader, zone: ZoneInfo) -> None:
        self._query = query
        self._reader = reader
        self._zone = zone

    def wait(self, seconds: float) -> None:
        """Takes one of the connections that all queries share; raises DatabaseError where none is free in time."""
        self._reader.wait(seconds)

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        """The query's gauges at `now` (aware); raises DatabaseError for a row that cannot be one as well."""
        query = self._query

        def read(connection: sqlalchemy.Connection) -> tuple[list[str], list[Row]]:
            result = self._execute(connection, now, sql.text(query.sql, query.max_series + 1))
            return list(result.keys()), [tuple(row) for row in result]

        columns, rows = self._read(read, timeout)
        return families(query, columns, rows, lambda value: self._reader.dialect.moment(value, self._zone, now))

    def check(self, now: datetime, timeout: float) -> None:
        """Has the database explain the statement, and say which columns it has; raises DatabaseError."""

        def describe(connection: sqlalchemy.Connection) -> list[str]:
            statement = sql.text(self._query.sql, self._query.max_series + 1)
            self._execute(connection, now, self._reader.dialect.explain_statement + statement).all()
            result = self._execute(connection, now, sql.text(self._query.sql, 0))
            return list(result.keys())

        _Columns(self._query, self._read(describe, timeout))

    def rest(self, seconds: float) -> None:
        """The next refresh is that far away."""
        self._reader.rest(seconds)

    def close(self) -> None:
        """Needs its connection no more."""
        self._reader.close()

    def _read(self, work: Callable[[sqlalchemy.Connection], T], timeout: float) -> T:
        try:
            return self._reader.read(work, timeout)
        except DatabaseError as error:
            raise DatabaseError(str(error), error.failure, _hint(error), again=error.again) from None

    def _execute(
        self, connection: sqlalchemy.Connection, now: datetime, statement: str
    ) -> sqlalchemy.CursorResult[Any]:
        self._reader.dialect.use_zone(connection, self._zone, now)
        moments = {"now": now, "since": now - (self._query.lookback or timedelta(0))}
        parameters = {
            name: self._reader.dialect.bound(moments[name], self._zone, naive=False, inclusive=name == "now")
            for name in sql.moments(self._query.sql)
        }
        return connection.execute(sqlalchemy.text(statement), parameters)


class _Columns:
    """Where in a row each column stands that the gauges name; raises DatabaseError where one is missing."""

    def __init__(self, query: QuerySettings, columns: Sequence[str]) -> None:
        self._place: Mapping[str, int] = {name: number for number, name in enumerate(columns)}
        for gauge in query.gauges:
            for name in (gauge.value, *query.labels_of(gauge)):
                if columns.count(name) != 1:
                    count = "no column" if name not in self._place else "more than one column"
                    raise _refused(
                        f"the query has {count} {name}, which {gauge.name} names",
                        f"it has {', '.join(columns)}; name them by AS",
                    )

    def of(self, row: Row, name: str) -> Any:
        return row[self._place[name]]


def families(query: QuerySettings, columns: Sequence[str], rows: Sequence[Row], moment: Moment) -> tuple[Family, ...]:
    """A family for each gauge. NULL and NaN make no series, a timestamp counts in Unix time, an interval in seconds.

    Raises DatabaseError where a column is missing, a value is none, two rows contradict each other, or there are more
    than `max_series` rows or series.
    """
    place = _Columns(query, columns)
    found = tuple(
        Family(gauge.name, gauge.help, query.labels_of(gauge), _samples(query, gauge, place, rows, moment))
        for gauge in query.gauges
    )
    if len(rows) > query.max_series or sum(len(family.samples) for family in found) > query.max_series:
        raise _refused(
            f"it makes more series than its {query.max_series}",
            "aggregate, leave out a label, or raise max_series: each is kept by Prometheus for as long as it keeps any",
        )
    return found


def _samples(
    query: QuerySettings, gauge: GaugeSettings, place: _Columns, rows: Sequence[Row], moment: Moment
) -> dict[tuple[str, ...], float]:
    names = query.labels_of(gauge)
    repeats = set(names) < set(query.labels)
    samples: dict[tuple[str, ...], float] = {}
    for row in rows:
        value = _number(place.of(row, gauge.value), gauge, moment)
        if value is None:
            continue
        labels = tuple(_label(place.of(row, name)) for name in names)
        if labels in samples and not (repeats and samples[labels] == value):
            pairs = ", ".join(f"{name}={label!r}" for name, label in zip(names, labels, strict=True))
            raise _refused(
                f"more than one row for the same labels of {gauge.name}",
                f"{pairs or 'it has no labels'}: aggregate in the SQL, or add the label that tells them apart",
            )
        samples[labels] = value
    return samples


def _number(value: Any, gauge: GaugeSettings, moment: Moment) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float, Decimal)):
        number = float(value)
        return None if math.isnan(number) else number
    if isinstance(value, timedelta):
        return value.total_seconds()
    # SQLite keeps timestamps as text
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", value)):
        return moment(value).timestamp()
    raise _refused(
        f"the column {gauge.value} holds no number, as {gauge.name} needs it",
        f"{str(value)[:40]!r} is {type(value).__name__}; CAST it in the SQL, or make it a label",
    )


def _label(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(message: str, hint: str) -> DatabaseError:
    return DatabaseError(message, Failure.REFUSED, hint)


def _hint(error: DatabaseError) -> str:
    """The dialects' own hints are about the tables that the exporter itself reads."""
    if error.failure is Failure.SLOW:
        return "shorten its lookback, have it read fewer rows, or give it an index"
    if error.failure is Failure.REFUSED:
        return "grant the role what the query reads, as deploy/sql/ shows" if "grant" in error.hint else ""
    return error.hint
