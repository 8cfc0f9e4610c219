"""Changes of clocks are found to the second, wherever they are looked for from."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from exporter.clocks import changes, offset_sql


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


SPRING, AUTUMN = ("2026-03-29 03:00:00", 3600, 7200), ("2026-10-25 02:00:00", 7200, 3600)


@pytest.mark.parametrize(
    ("zone", "since", "until", "found"),
    [
        ("Asia/Seoul", "2026-01-01", "2026-12-31", []),
        ("UTC", "2026-01-01", "2026-12-31", []),
        ("Europe/Berlin", "2026-01-01 00:00:00.000007", "2026-12-31", [SPRING, AUTUMN]),
        ("Europe/Berlin", "2026-03-29 00:59:59", "2026-03-29 01:00:00", [SPRING]),
        ("Europe/Berlin", "2026-03-29 01:00:00", "2026-03-30", []),
        ("Europe/Berlin", "2026-10-24", "2026-10-25 00:59:59", []),  # it is yet to come
        ("Australia/Lord_Howe", "2026-04-01", "2026-04-08", [("2026-04-05 01:30:00", 39600, 37800)]),
    ],
)
def test_changes_are_found_between_two_moments(
    zone: str, since: str, until: str, found: list[tuple[str, float, float]]
) -> None:
    assert [
        (str(change.wall), change.before.total_seconds(), change.after.total_seconds())
        for change in changes(ZoneInfo(zone), moment(since), moment(until))
    ] == found


def test_the_sql_names_each_offset_in_seconds() -> None:
    year = changes(ZoneInfo("Europe/Berlin"), moment("2026-01-01"), moment("2026-12-31"))
    assert offset_sql("created_at", year) == (
        "CASE WHEN created_at < '2026-03-29 03:00:00' THEN 3600 WHEN created_at < '2026-10-25 02:00:00' THEN 7200 "
        "ELSE 3600 END"
    )
