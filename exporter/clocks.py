"""When the clocks of a time zone were put forward or back: what timestamps without a zone do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["Change", "changes", "offset_sql"]

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Change:
    """From `wall` on, as the new clock shows it, the zone is `after` ahead of UTC and no longer `before`.

    Of an hour that the clock repeats, all is after it: the later reading.
    """

    wall: datetime
    before: timedelta
    after: timedelta


def changes(zone: tzinfo, since: datetime, until: datetime) -> tuple[Change, ...]:
    """Those between two moments (aware), at most one a day, in their order."""
    found = []
    start = since.astimezone(UTC)
    while start < until:
        end = min(start + DAY, until.astimezone(UTC))
        before, after = _offset(zone, start), _offset(zone, end)
        if before != after:
            low, high = start, end
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            moment = high.replace(microsecond=0)
            found.append(Change((moment + after).replace(tzinfo=None), before, after))
        start = end
    return tuple(found)


def offset_sql(column: str, found: Sequence[Change]) -> str:
    """SQL for the seconds that the zone is ahead of UTC at the column's timestamp; there is one change at least."""
    cases = " ".join(f"WHEN {column} < '{change.wall}' THEN {change.before.total_seconds():.0f}" for change in found)
    return f"CASE {cases} ELSE {found[-1].after.total_seconds():.0f} END"


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)
