"""Gauges over one table as declarations, and the single statement that finds all of them in one pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

import sqlalchemy

from exporter import clocks
from exporter.databases import Columns, Dialect
from exporter.families import Family

__all__ = [
    "Context",
    "Gauge",
    "Measure",
    "Statement",
    "Table",
    "count",
    "indexes",
    "label",
    "mean",
    "mean_seconds",
    "newest",
    "oldest_age",
    "prepare",
    "share",
]

LATEST_ROWS = 1000
"""How many of the highest ids are looked through for the newest row, lest it be older than every window."""

Groups = Mapping[str, tuple[Any, ...]]
"""By status, what the statement found for one measure."""


@dataclass(frozen=True)
class Context:
    """When it is, and how this database's words and clocks are read."""

    dialect: Dialect
    now: datetime
    zone: tzinfo
    """Of timestamps that carry none."""
    naive: bool = False
    """Whether those of this table do carry none."""
    since: datetime | None = None
    """When the longest window begins, where there is one."""

    def moment(self, value: Any) -> datetime:
        """A timestamp of the database, aware."""
        return self.dialect.moment(value, self.zone if self.naive else UTC, self.now)

    def bound(self, moment: datetime, *, inclusive: bool = False) -> object:
        """A parameter that compares with the table's timestamps."""
        return self.dialect.bound(moment, self.zone if self.naive else UTC, naive=self.naive, inclusive=inclusive)

    def seconds_between(self, start: str, end: str) -> str:
        """SQL for the seconds from one column to the other, in rows of a window; true where clocks changed between."""
        seconds = self.dialect.seconds_between(start, end)
        changed = clocks.changes(self.zone, self.since, self.now) if self.naive and self.since is not None else ()
        if not changed:
            return seconds
        return f"({seconds} - ({clocks.offset_sql(end, changed)}) + ({clocks.offset_sql(start, changed)}))"


@dataclass(frozen=True)
class Measure:
    """One figure: the SQL aggregates that it needs over the rows for which a condition holds, and what they make."""

    columns: Callable[[str, Context], tuple[str, ...]]
    value: Callable[[Groups, Context], float | None]
    """None where there is no such figure: its series is absent then."""
    latest: str = ""
    """Also looked for, as a maximum, in the rows of the highest ids: a column."""


@dataclass(frozen=True)
class Gauge:
    """A gauge as a sentence: its name, what it says, and what it measures in which rows."""

    name: str
    help: str
    measure: Measure
    status: tuple[str, ...] = ()
    """Only rows of these; () is all of them."""
    where: str = ""
    """SQL over the table's columns, `:now` and the table's own moments."""
    by: tuple[str, ...] = ()
    """`window`: once for each, over the rows created in it. `status`: once for each."""
    window: timedelta | None = None
    """Over the rows created in this one alone, whichever are configured."""
    exported: bool = True


@dataclass(frozen=True)
class Table:
    """A table with `id` and `status`, and `created_at` where a gauge goes by window."""

    name: str
    statuses: tuple[str, ...]
    """Always shown, 0 when none. What the database knows beside them is added by itself."""
    gauges: tuple[Gauge, ...]
    moments: Mapping[str, Callable[[datetime], datetime | date]] = field(default_factory=dict)
    """Further names for `where`, as functions of now."""

    @property
    def windowed(self) -> Table:
        """The gauges by window alone."""
        return replace(self, gauges=tuple(gauge for gauge in self.gauges if "window" in gauge.by))


def count() -> Measure:
    """How many rows."""
    return Measure(
        lambda condition, _: (f"count(CASE WHEN {condition} THEN 1 END)",),
        lambda groups, _: float(sum(number for (number,) in groups.values())),
    )


def mean(expression: str, *, scale: float = 1) -> Measure:
    """The mean of `expression`, NULLs left out, times `scale`."""
    return mean_of(lambda _: expression, scale)


def mean_seconds(start: str, end: str) -> Measure:
    """The mean time from one column to the other."""
    return mean_of(lambda context: context.seconds_between(start, end), 1)


def mean_of(expression: Callable[[Context], str], scale: float) -> Measure:
    """The mean of SQL that depends on the database and its clock."""

    def value(groups: Groups, _context: Context) -> float | None:
        rows = sum(number for _, number in groups.values())
        return float(sum(total for total, number in groups.values() if number)) * scale / rows if rows else None

    def columns(condition: str, context: Context) -> tuple[str, ...]:
        each = f"CASE WHEN {condition} THEN {expression(context)} END"
        return f"sum({each})", f"count({each})"

    return Measure(columns, value)


def oldest_age(column: str) -> Measure:
    """Seconds since the smallest value of a timestamp, 0 when there is no row."""

    def value(groups: Groups, context: Context) -> float:
        moments = [context.moment(oldest) for (oldest,) in groups.values() if oldest is not None]
        return (context.now - min(moments)).total_seconds() if moments else 0.0

    return Measure(lambda condition, _: (f"min(CASE WHEN {condition} THEN {column} END)",), value)


def newest(column: str) -> Measure:
    """The largest value of a timestamp, in Unix time."""

    def value(groups: Groups, context: Context) -> float | None:
        moments = [context.moment(newest) for (newest,) in groups.values() if newest is not None]
        return max(moments).timestamp() if moments else None

    return Measure(lambda condition, _: (f"max(CASE WHEN {condition} THEN {column} END)",), value, latest=column)


def share(status: str) -> Measure:
    """The rows of this status among all."""

    def value(groups: Groups, _context: Context) -> float | None:
        rows = sum(number for (number,) in groups.values())
        return float(groups[status][0]) / float(rows) if rows and status in groups else 0.0 if rows else None

    return Measure(count().columns, value)


def label(window: timedelta) -> str:
    """The window as its label: 24h, or 30m; 45s for what is no whole minutes, which no window is."""
    for unit, name in ((timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if not window % unit:
            return f"{window // unit}{name}"
    return f"{window.total_seconds():g}s"


@dataclass(frozen=True)
class _Figure:
    """A gauge in one window (None: it goes by none), and which of the statement's columns are its own."""

    gauge: Gauge
    window: timedelta | None
    columns: slice


@dataclass(frozen=True)
class Found:
    """What a statement found, and the statuses of the rows that it saw."""

    families: tuple[Family, ...]
    statuses: frozenset[str]


@dataclass(frozen=True)
class Statement:
    """The statement for one moment, and what its rows mean."""

    sql: str
    parameters: Mapping[str, object]
    table: Table
    statuses: tuple[str, ...]
    figures: tuple[_Figure, ...]
    context: Context

    def run(self, connection: sqlalchemy.Connection) -> Found:
        """Every gauge of the table with its samples."""
        groups: dict[str, tuple[Any, ...]] = {}
        latest: tuple[Any, ...] = ()
        for part, status, *columns in connection.execute(sqlalchemy.text(self.sql), dict(self.parameters)):
            if part == LATEST:
                latest = tuple(columns)
            else:
                groups["null" if status is None else str(status)] = tuple(columns)
        samples: dict[str, dict[tuple[str, ...], float]] = {gauge.name: {} for gauge in self.table.gauges}
        for figure in self.figures:
            samples[figure.gauge.name].update(self._samples(figure, groups, latest))
        families = tuple(
            Family(gauge.name, gauge.help, gauge.by, samples[gauge.name], exported=gauge.exported)
            for gauge in self.table.gauges
        )
        return Found(families, frozenset(groups))

    def explain(self, connection: sqlalchemy.Connection) -> str:
        """The database's plan for it, which it makes without running it."""
        sql = sqlalchemy.text(self.context.dialect.explain_statement + self.sql)
        return "\n".join(" ".join(map(str, row)) for row in connection.execute(sql, dict(self.parameters)))

    def _samples(
        self, figure: _Figure, groups: Groups, latest: tuple[Any, ...]
    ) -> Iterator[tuple[tuple[str, ...], float]]:
        gauge = figure.gauge
        own = {
            status: columns[figure.columns]
            for status, columns in groups.items()
            if not gauge.status or status in gauge.status
        }
        if gauge.measure.latest and latest:
            own["latest"] = latest[figure.columns]
        shown: dict[str, Groups] = {"": own}
        if "status" in gauge.by:
            names = sorted({name.lower() for name in (*self.statuses, *own)})
            shown = {name: {s: columns for s, columns in own.items() if s.lower() == name} for name in names}
        for status, part in shown.items():
            value = gauge.measure.value(part, self.context)
            if value is not None:
                labels = {"window": label(figure.window) if figure.window else "", "status": status}
                yield tuple(labels[name] for name in gauge.by), value


ROWS, LATEST = 0, 1


def prepare(
    table: Table,
    columns: Columns,
    windows: Sequence[timedelta],
    context: Context,
) -> Statement:
    """The statement that reads the table once, grouped by status.

    Its filter lets through what some gauge counts and nothing else, in terms that an index on `created_at` and one on
    `status` can answer; without them it is one pass. Rows dated in the future are in no window.
    """
    dialect, now = context.dialect, context.now
    spans = [gauge.window for gauge in table.gauges if gauge.window] + list(windows)
    context = replace(context, naive="created_at" in columns.naive, since=now - max(spans) if spans else None)
    moments = {"now": context.bound(now, inclusive=True)}
    for name, moment in table.moments.items():
        then = moment(now)
        moments[name] = context.bound(then) if isinstance(then, datetime) else dialect.day(then)

    aggregates: list[str] = []
    places: dict[tuple[str, ...], slice] = {}
    figures: list[_Figure] = []
    for gauge in table.gauges:
        for window in windows if "window" in gauge.by else (gauge.window,):
            conditions = [gauge.where] if gauge.where else []
            if window is not None:
                since = f"since_{label(window)}"
                moments[since] = context.bound(now - window)
                conditions = [f"created_at >= :{since}", "created_at <= :now", *conditions]
            own = gauge.measure.columns(" AND ".join(conditions) or "1 = 1", context)
            if own not in places:  # two gauges may be made of the same
                places[own] = slice(len(aggregates), len(aggregates) + len(own))
                aggregates += own
            figures.append(_Figure(gauge, window, places[own]))

    names = [f"c{number}" for number in range(len(aggregates))]
    selected = ",\n  ".join(f"{sql} AS {name}" for sql, name in zip(aggregates, names, strict=True))
    group = dialect.without_index("status")
    sql = f"SELECT {ROWS} AS part, {group},\n  {selected}\nFROM {table.name}"
    wanted, parameters = _wanted(table, columns, [figure.window for figure in figures if figure.window])
    if wanted:
        sql += f"\nWHERE {wanted}"
    sql += f"\nGROUP BY {group}"
    if any(gauge.measure.latest for gauge in table.gauges):
        sql += f"\nUNION ALL\n{_latest(table, figures, names)}"
    used = {name: value for name, value in moments.items() if re.search(rf":{name}\b", sql)}
    statuses = tuple(dict.fromkeys((*table.statuses, *(columns.statuses or ()))))
    return Statement(sql, used | parameters, table, statuses, tuple(figures), context)


def _wanted(table: Table, columns: Columns, windows: Sequence[timedelta]) -> tuple[str, dict[str, object]]:
    """The condition on the rows that some gauge counts, with its parameters; "" where that is every row."""
    terms: list[str] = []
    statuses: list[str] = []
    for gauge in table.gauges:
        if "window" in gauge.by or gauge.window:
            terms = [f"created_at >= :since_{label(max(windows))}"]
        elif gauge.status:
            statuses += gauge.status
        elif not gauge.measure.latest:
            return "", {}
    # PostgreSQL refuses to compare with a word that its enum does not have
    known = [s for s in dict.fromkeys(statuses) if columns.statuses is None or s in columns.statuses]
    parameters: dict[str, object] = {f"status_{number}": status for number, status in enumerate(known)}
    if known:
        terms.append(f"status IN ({', '.join(f':{name}' for name in parameters)})")
    return " OR ".join(terms) or "1 = 0", parameters


def indexes(table: Table) -> tuple[str, ...]:
    """The columns on which an index each spares it the rows that no gauge counts; () where all are counted."""
    wanted, _ = _wanted(table, Columns(), [timedelta(hours=1)])
    return tuple(column for column in ("created_at", "status") if f"{column} " in wanted)


def _latest(table: Table, figures: Sequence[_Figure], names: Sequence[str]) -> str:
    """The rows of the highest ids, for the newest of all when it is older than every window.

    Ids and `created_at` ascend together but for minutes, so the primary key finds it without reading the table.
    """
    found = dict.fromkeys(names, "NULL")
    for figure in figures:
        if column := figure.gauge.measure.latest:
            found[names[figure.columns.start]] = f"max({column})"
    column = next(figure.gauge.measure.latest for figure in figures if figure.gauge.measure.latest)
    rows = f"SELECT {column} FROM {table.name} ORDER BY id DESC LIMIT {LATEST_ROWS}"  # noqa: S608 - names of ours
    return f"SELECT {LATEST}, NULL, {', '.join(found.values())}\nFROM ({rows}) AS latest\nWHERE {column} <= :now"
