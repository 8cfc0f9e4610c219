"""When a schedule is in force, by the clock on the wall of its time zone: days, hours, holidays by date. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["DAYS", "Holidays", "Schedule", "Window", "parse_days", "parse_holidays", "parse_hours"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday")
"""A holiday is a day of its own: it is no Monday, whatever the calendar says."""

_WEEKDAYS = DAYS[:7]
_DAY_MINUTES = 24 * 60
_HOURS = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")
_MINUTE = timedelta(minutes=1)
# What is longer has no end that anyone waits for: a week of windows, and every holiday of a year in a row.
_LONGEST = timedelta(days=400)


@dataclass(frozen=True)
class Window:
    """Hours of some days. Hours past midnight belong to the day on which they begin."""

    days: frozenset[str] = frozenset(DAYS)
    hours: tuple[tuple[int, int], ...] = ((0, _DAY_MINUTES),)
    """From and to, in minutes after the day's midnight; an end beyond 24 h is on the next day."""


@dataclass(frozen=True)
class Holidays:
    """Days that count as `holiday`: once, and in every year (month, day)."""

    once: frozenset[date] = frozenset()
    yearly: frozenset[tuple[int, int]] = frozenset()

    def __contains__(self, day: date) -> bool:
        return day in self.once or (day.month, day.day) in self.yearly


@dataclass(frozen=True)
class Schedule:
    """Is in force while any of its windows is."""

    windows: tuple[Window, ...]
    zone: ZoneInfo
    holidays: Holidays = Holidays()

    def covers(self, at: datetime) -> bool:
        """Whether it is in force at this time."""
        wall = at.astimezone(self.zone)
        minute = wall.hour * 60 + wall.minute
        today, yesterday = self._kind(wall.date()), self._kind(wall.date() - timedelta(days=1))
        return any(
            (today in window.days and start <= minute < end)
            or (yesterday in window.days and minute + _DAY_MINUTES < end)
            for window in self.windows
            for start, end in window.hours
        )

    def ends(self, at: datetime) -> datetime:
        """The first time from `at` on, in UTC, at which it is not in force; for one that never ends, in 400 days."""
        time = at.astimezone(UTC)
        while self.covers(time) and time < at + _LONGEST:
            time = self._change(time)
        return time

    @property
    def always(self) -> bool:
        """Whether it is in force at every minute of an ordinary week."""
        ordinary = replace(self, holidays=Holidays(), zone=ZoneInfo("UTC"))
        monday = datetime(2026, 1, 5, tzinfo=UTC)
        return ordinary.ends(monday) >= monday + timedelta(days=7)

    def _kind(self, day: date) -> str:
        return "holiday" if day in self.holidays else _WEEKDAYS[day.weekday()]

    def _change(self, time: datetime) -> datetime:
        """The next time at which it may begin or end: a window's edge, midnight, or when the clocks are changed."""
        wall = time.astimezone(self.zone).replace(tzinfo=None)
        elapsed = wall - datetime.combine(wall.date(), datetime.min.time())
        edges = {edge % _DAY_MINUTES for window in self.windows for hours in window.hours for edge in hours}
        after = time + min(left for edge in {*edges, _DAY_MINUTES} if (left := edge * _MINUTE - elapsed) > timedelta(0))
        return after if self._offset(after) == self._offset(time) else self._clock_change(time, after)

    def _clock_change(self, before: datetime, after: datetime) -> datetime:
        """The minute at which the offset changes between the two (tz database: at whole minutes, since 1972)."""
        low, high = before.replace(second=0, microsecond=0), after
        while high - low > _MINUTE:
            middle = low + (high - low) // _MINUTE // 2 * _MINUTE
            if self._offset(middle) == self._offset(before):
                low = middle
            else:
                high = middle
        return high

    def _offset(self, time: datetime) -> timedelta | None:
        return time.astimezone(self.zone).utcoffset()


def parse_days(values: Iterable[str]) -> frozenset[str]:
    """Of `mon`, `mon-fri`, `sat`, `holiday`; raises ValueError naming them."""
    found: set[str] = set()
    for value in values:
        first, dash, last = (part.strip().lower() for part in value.partition("-"))
        if first not in DAYS or (dash and not {first, last} <= set(_WEEKDAYS)):
            raise ValueError(f"{value!r} is no day: write {', '.join(DAYS)}, or a range such as mon-fri")
        start, end = DAYS.index(first), DAYS.index(last) if dash else DAYS.index(first)
        found |= {first} if not dash else {_WEEKDAYS[(start + step) % 7] for step in range((end - start) % 7 + 1)}
    return frozenset(found)


def parse_hours(value: str) -> tuple[int, int]:
    """`09:00-18:00`, or `22:00-07:00` past midnight; raises ValueError."""
    found = _HOURS.fullmatch(value.strip())
    if found is not None:
        from_hour, from_minute, to_hour, to_minute = (int(part) for part in found.groups())
        start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
        if max(from_minute, to_minute) < 60 and start < _DAY_MINUTES and end <= _DAY_MINUTES and start != end:
            return start, end if end > start else end + _DAY_MINUTES
    raise ValueError(f"{value!r}: write hours such as 09:00-18:00, or 22:00-07:00 past midnight")


def parse_holidays(values: Iterable[str | date]) -> Holidays:
    """`2027-02-06` for one year, `12-25` for every year; raises ValueError."""
    once: set[date] = set()
    yearly: set[tuple[int, int]] = set()
    for value in values:
        try:
            if isinstance(value, date):
                once.add(value)
            elif re.fullmatch(r"\d\d-\d\d", value):
                day = date.fromisoformat(f"2000-{value}")  # a leap year
                yearly.add((day.month, day.day))
            else:
                once.add(date.fromisoformat(value))
        except ValueError:
            raise ValueError(f"{value!r} is no date: write 2027-02-06, or 12-25 for every year") from None
    return Holidays(frozenset(once), frozenset(yearly))
