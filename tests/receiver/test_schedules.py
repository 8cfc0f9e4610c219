"""Schedules against examples, and against a walk from minute to minute."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.schedules import DAYS, Holidays, Schedule, Window, parse_days, parse_holidays, parse_hours

SEOUL = ZoneInfo("Asia/Seoul")
MINUTE = timedelta(minutes=1)
OFFICE = Window(parse_days(["mon-fri"]), (parse_hours("09:00-18:00"),))
NIGHT = Window(hours=(parse_hours("22:00-07:00"),))
WEEKEND = Window(parse_days(["sat", "sun", "holiday"]))
CHRISTMAS = parse_holidays(["12-25"])


def seoul(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SEOUL)


@pytest.mark.parametrize(
    ("at", "in_force"),
    [
        ("2026-01-26T08:59:59", False),  # a Monday
        ("2026-01-26T09:00", True),
        ("2026-01-26T17:59:59.999999", True),
        ("2026-01-26T18:00", False),
        ("2026-01-30T12:00", True),
        ("2026-01-31T12:00", False),  # a Saturday
        ("2026-12-25T12:00", False),  # a Friday, and a holiday
    ],
)
def test_office_hours(at: str, in_force: bool) -> None:
    assert Schedule((OFFICE,), SEOUL, CHRISTMAS).covers(seoul(at)) is in_force


@pytest.mark.parametrize(
    ("at", "in_force"),
    [
        ("2026-01-27T21:59", False),
        ("2026-01-27T22:00", True),
        ("2026-01-28T00:00", True),
        ("2026-01-28T06:59", True),
        ("2026-01-28T07:00", False),
    ],
)
def test_hours_past_midnight(at: str, in_force: bool) -> None:
    assert Schedule((NIGHT,), SEOUL).covers(seoul(at)) is in_force


def test_hours_past_midnight_belong_to_the_day_on_which_they_begin() -> None:
    friday_night = Schedule((Window(parse_days(["fri"]), (parse_hours("22:00-07:00"),)),), SEOUL)
    assert friday_night.covers(seoul("2026-01-31T06:59"))  # Saturday morning
    assert not friday_night.covers(seoul("2026-01-30T06:59"))  # Friday morning


def test_same_moment_is_another_hour_in_another_zone() -> None:
    at = datetime(2026, 1, 27, 13, 0, tzinfo=UTC)  # 22:00 in Seoul
    assert Schedule((NIGHT,), SEOUL).covers(at)
    assert not Schedule((NIGHT,), ZoneInfo("UTC")).covers(at)


def test_end_is_that_of_all_overlapping_windows_together() -> None:
    quiet = Schedule((NIGHT, WEEKEND), SEOUL)
    assert quiet.ends(seoul("2026-01-30T23:30")) == seoul("2026-02-02T07:00")  # Friday night until Monday morning


def test_holiday_in_the_week_joins_two_nights() -> None:
    quiet = Schedule((NIGHT, WEEKEND), SEOUL, CHRISTMAS)  # Christmas is a Friday
    assert quiet.ends(seoul("2026-12-24T23:30")) == seoul("2026-12-28T07:00")


def test_end_of_what_is_not_in_force_is_now() -> None:
    assert Schedule((NIGHT,), SEOUL).ends(seoul("2026-01-27T12:00")) == seoul("2026-01-27T12:00")


def test_end_falls_on_the_wall_clock_when_the_clocks_are_changed() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    quiet = Schedule((NIGHT,), berlin)
    at = datetime(2026, 3, 28, 23, 0, tzinfo=berlin)  # the night in which 02:00 becomes 03:00
    assert quiet.ends(at) == datetime(2026, 3, 29, 7, 0, tzinfo=berlin)
    assert quiet.ends(at) - at.astimezone(UTC) == timedelta(hours=7)


def test_end_within_the_hour_that_is_left_out_is_when_the_clocks_are_changed() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    quiet = Schedule((Window(hours=(parse_hours("01:00-02:30"),)),), berlin)
    assert quiet.ends(datetime(2026, 3, 29, 1, 15, tzinfo=berlin)) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("windows", "always"),
    [
        ((Window(),), True),
        ((NIGHT,), False),
        ((NIGHT, Window(hours=(parse_hours("07:00-22:00"),))), True),
        ((Window(parse_days(["mon-sun"])),), True),
        ((WEEKEND,), False),
    ],
)
def test_what_never_ends_is_known(windows: tuple[Window, ...], always: bool) -> None:
    assert Schedule(windows, SEOUL, CHRISTMAS).always is always


def test_holiday_makes_no_end_of_what_is_always_in_force() -> None:
    every_day = Schedule((Window(parse_days(["mon-sun"])),), SEOUL, parse_holidays(["01-06", "2026-01-07"]))
    assert every_day.always


@pytest.mark.parametrize(
    ("values", "days"),
    [
        (["mon-fri"], {"mon", "tue", "wed", "thu", "fri"}),
        (["fri-mon"], {"fri", "sat", "sun", "mon"}),
        (["Sat", " sun "], {"sat", "sun"}),
        (["holiday"], {"holiday"}),
    ],
)
def test_days_are_read(values: list[str], days: set[str]) -> None:
    assert parse_days(values) == days


@pytest.mark.parametrize("value", ["monday", "mon-holiday", "mon-", "", "-fri", "1"])
def test_day_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(
        ValueError, match="write mon, tue, wed, thu, fri, sat, sun, holiday, or a range such as mon-fri"
    ):
        parse_days([value])


@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        ("09:00-18:00", (540, 1080)),
        ("22:00-7:00", (1320, 1860)),
        ("00:00-24:00", (0, 1440)),
        ("9:30 - 10:45", (570, 645)),
        (" 09:00-18:00 ", (540, 1080)),
    ],
)
def test_hours_are_read(value: str, minutes: tuple[int, int]) -> None:
    assert parse_hours(value) == minutes


@pytest.mark.parametrize(
    "value",
    [
        "9-18",
        "09:00",
        "09:60-11:00",
        "09:00-10:60",
        "24:00-07:00",
        "08:00-25:00",
        "08:00-24:01",
        "09:00-09:00",
        "09:00-12:00, 13:00-18:00",
        "",
    ],
)
def test_hours_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="write hours such as 09:00-18:00"):
        parse_hours(value)


def test_holidays_are_read() -> None:
    found = parse_holidays(["12-25", "2027-02-06", date(2027, 2, 7), "02-29"])
    assert found == Holidays(frozenset({date(2027, 2, 6), date(2027, 2, 7)}), frozenset({(12, 25), (2, 29)}))
    assert [day in found for day in (date(2030, 12, 25), date(2027, 2, 6), date(2027, 2, 7))] == [True, True, True]
    assert [day in found for day in (date(2028, 2, 6), date(2027, 12, 24))] == [False, False]


@pytest.mark.parametrize("value", ["12/25", "2026-02-30", "02-30", "Christmas"])
def test_holiday_that_is_no_date_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="write 2027-02-06, or 12-25 for every year"):
        parse_holidays([value])


edge = st.one_of(st.sampled_from([0, 60, 120, 150, 180, 420, 540, 1080, 1320, 1439]), st.integers(0, 1439))


@st.composite
def hours(draw: st.DrawFn) -> tuple[int, int]:
    start, length = draw(edge), draw(st.integers(1, 1440))
    return start, min(start + length, 1440) if draw(st.booleans()) else start + length


windows = st.builds(
    Window,
    days=st.frozensets(st.sampled_from(DAYS), min_size=1),
    hours=st.lists(hours(), min_size=1, max_size=2).map(tuple),
)
# two whose clocks change, one by half an hour; one without change; one with an odd offset; and UTC
zones = st.sampled_from(
    ["Asia/Seoul", "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
days = st.dates(date(2026, 1, 1), date(2026, 12, 31))
moments = st.one_of(
    st.tuples(zones, days.map(lambda day: datetime.combine(day, time(12), UTC))),
    # when the clocks are changed
    st.sampled_from(
        [
            ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
            ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
            ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
            ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
            ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
            ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
        ]
    ),
)


def in_force(schedule: Schedule, at: datetime) -> bool:
    """Said once more, from the days rather than from the moment."""
    wall = at.astimezone(schedule.zone).replace(tzinfo=None)
    for back in range(3):
        day = wall.date() - timedelta(days=back)
        free = day in schedule.holidays.once or f"{day:%m-%d}" in {
            f"{m:02}-{d:02}" for m, d in schedule.holidays.yearly
        }
        kind = "holiday" if free else day.strftime("%a").lower()
        for window in schedule.windows:
            for start, end in window.hours if kind in window.days else ():
                midnight = datetime.combine(day, time())
                if midnight + start * MINUTE <= wall < midnight + end * MINUTE:
                    return True
    return False


@settings(deadline=None, max_examples=500)
@given(
    windows=st.lists(windows, min_size=1, max_size=3),
    moment=moments,
    holidays=st.builds(
        Holidays,
        once=st.frozensets(days, max_size=2),
        yearly=st.frozensets(days.map(lambda day: (day.month, day.day)), max_size=2),
    ),
    minutes=st.one_of(st.integers(-120, 0), st.integers(-720, 720)),
)
def test_end_is_where_a_walk_from_minute_to_minute_finds_it(
    windows: list[Window], moment: tuple[str, datetime], holidays: Holidays, minutes: int
) -> None:
    zone, about = moment
    schedule = Schedule(tuple(windows), ZoneInfo(zone), holidays)
    at = about + minutes * MINUTE
    end = schedule.ends(at)
    walked = at
    while in_force(schedule, walked) and walked < min(end, at + timedelta(days=2)) + 2 * MINUTE:
        walked += MINUTE
    if end - at <= timedelta(days=2):
        assert end == walked
    else:
        assert in_force(schedule, walked - MINUTE)
        assert walked > at + timedelta(days=2)
