"""The doctor's judgement: what was found, against what should be, in words that say what to do. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from exporter.collector import next_interval
from exporter.databases import DatabaseError, Failure
from exporter.databases.catalogue import Catalogue
from exporter.families import Family, family_of
from exporter.sources import Plan
from exporter.tables import Table, indexes

__all__ = [
    "Finding",
    "Level",
    "Look",
    "judge_clock",
    "judge_indexes",
    "judge_look",
    "judge_statuses",
    "judge_zone",
    "words",
]

SKEW_SECONDS = 5.0
"""How far the clocks of host and database may differ: windows and ages are off by as much."""

FUTURE = timedelta(minutes=5)
"""How far ahead the newest rows may be before the time zone is doubted."""

LATELY = timedelta(minutes=10)
"""A site at work has written a row by then."""

COUNTED = 10
"""What counting a row costs, where passing over it in a scan costs 1."""

SEARCHED = 12
"""What finding a row by an index and counting it costs. For 1,000,000 orders with 38,800 in the longest window that
makes 0.34 of the time; measured: 0.34 on PostgreSQL 15, 0.24 to 0.38 on MariaDB 10.11, 0.41 to 0.56 on SQLite 3.40."""

FEW_ROWS = 20_000
"""A table that has fewer is read in no time."""

WORTHWHILE = 0.7
"""An index that leaves more of the time than that is not worth what it costs those who write."""


class Level(Enum):
    """How a finding reads, and whether somebody has to act."""

    OK = "ok"
    NOTE = "-"
    WARNING = "warn"
    FAULT = "FAULT"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing; a fault says what to do."""

    what: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level.value:<6}{self.what}: {self.text}"


@dataclass(frozen=True)
class Look:
    """What a source found, and in which time; or why not."""

    seconds: float = 0.0
    families: tuple[Family, ...] = ()
    error: DatabaseError | None = None

    @property
    def slow(self) -> bool:
        """Whether the database did not come to the end of it in time."""
        return self.error is not None and self.error.failure is Failure.SLOW


def judge_clock(server: datetime, started: datetime, ended: datetime) -> Finding:
    """The server's clock, which it told between two moments of this machine's."""
    skew = max(server - ended, started - server, timedelta(0)).total_seconds()
    ahead = "ahead of" if server > ended else "behind"
    if skew > SKEW_SECONDS:
        text = f"the database's is {skew:.0f} s {ahead} this machine's, and so is every window: run chrony on both"
        return Finding("clock", Level.FAULT, text)
    return Finding("clock", Level.OK, f"the database's and this machine's differ by {skew:.1f} s")


def judge_look(plan: Plan, look: Look) -> Finding:
    """What a refresh takes, and how often there will be one."""
    what = f"source {plan.name}"
    if look.error is not None:
        return Finding(what, Level.FAULT, words(look.error))
    interval = next_interval(plan, look.seconds, None)
    series = sum(len(family.samples) for family in look.families if family.exported)
    text = f"{look.seconds:.3f} s for {series} series, every {interval:.3g} s"
    if interval > plan.interval:
        text += f" and not every {plan.interval:g} s, lest it take more than 10 % of the database's time"
        return Finding(what, Level.WARNING, text)
    return Finding(what, Level.OK, text)


def judge_statuses(table: Table, families: Sequence[Family]) -> Finding:
    """The words of the status column against those that are known."""
    samples = family_of(families, f"coldchain_{table.name}").samples
    rows: dict[str, float] = {}
    for labels, value in samples.items():
        rows[labels[-1]] = rows.get(labels[-1], 0) + value
    known = {status.lower() for status in table.statuses}
    unknown = sorted(rows.keys() - known)
    if unknown and not any(rows.get(status) for status in known) and any(rows[status] for status in unknown):
        text = f"its statuses are {', '.join(unknown)}, none of which is known: is this the dispatch database?"
        return Finding(table.name, Level.FAULT, text)
    beside = f"; beside them, shown as they are: {', '.join(unknown)}" if unknown else ""
    return Finding(table.name, Level.OK, f"columns and statuses are as expected{beside}")


def judge_zone(table: str, wall: Sequence[datetime], zone: ZoneInfo, business: ZoneInfo, now: datetime) -> Finding:
    """Whether the newest rows' timestamps, which carry no zone, can be of `zone`; `wall` has them as if of UTC."""
    what = f"{table} time zone"
    middle, newest = sorted(wall)[len(wall) // 2], max(wall)

    def age(moment: datetime, as_of: ZoneInfo) -> timedelta:
        return now - moment.replace(tzinfo=as_of)

    others = [other for other in (ZoneInfo("UTC"), business) if other.key != zone.key]
    if age(middle, zone) < -FUTURE:  # a few rows of the future are nothing unusual
        fits = next((other.key for other in others if age(middle, other) >= -FUTURE), None)
        advice = f"set database_timezone: {fits}" if fits else "set database_timezone to the zone of the system's clock"
        text = f"read as {zone.key} the newest rows are {_hours(-age(middle, zone))} in the future: {advice}"
        return Finding(what, Level.FAULT, text)
    fits = next((other.key for other in others if age(newest, zone) > LATELY >= abs(age(newest, other))), None)
    if fits:
        text = (
            f"read as {zone.key} the newest row is {_hours(age(newest, zone))} old, and read as {fits} it is of the "
            f"last minutes: if the site is at work, set database_timezone: {fits}"
        )
        return Finding(what, Level.WARNING, text)
    return Finding(
        what,
        Level.OK,
        f"timestamps carry none and are read as {zone.key}; the newest is {_hours(age(newest, zone))} old",
    )


def judge_indexes(
    table: Table, indexed: Collection[str], seconds: float | None, rows: int, counted: int, catalogue: Catalogue
) -> Iterator[Finding]:
    """The indexes that would help, as statements, with what a refresh takes now and an estimate of what it would.

    `seconds` is None where it ran into its time-out; `counted` of about `rows` rows are in the longest window.
    """
    what = f"{table.name} indexes"
    missing = [column for column in indexes(table) if column not in indexed]
    if not missing:
        yield Finding(what, Level.OK, f"on {' and '.join(indexes(table))}, as they should be")
        return
    share = SEARCHED * counted / (rows + COUNTED * counted) if rows else 1.0
    if rows < FEW_ROWS or share > WORTHWHILE:
        yield Finding(what, Level.OK, f"none needed for about {rows:,} rows, {counted:,} of them in the longest window")
        return
    statements = "".join(f"\n{'':<8}{catalogue.create_index(table.name, column)}" for column in missing)
    if seconds is None:
        text = f"a refresh runs into its time-out without; as the owner, run{statements}"
    else:
        text = (
            f"a refresh takes {seconds:.3f} s without and, by an estimate from the {counted:,} of about {rows:,} rows "
            f"that it would read, {seconds * share:.3f} s with; as the owner, run{statements}"
        )
    yield Finding(what, Level.NOTE, text)


def words(error: DatabaseError) -> str:
    """What is wrong and what to do, in one line."""
    return f"{error}: {error.hint}" if error.hint else str(error)


def _hours(time: timedelta) -> str:
    minutes = round(time.total_seconds() / 60)
    return f"{minutes // 60} h {minutes % 60} min" if abs(minutes) >= 60 else f"{minutes} min"
