"""Every source at its own pace: a failing, slow or hanging one is nobody else's business."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from exporter.collector import HANGS, Collector, next_interval
from exporter.databases import DatabaseError, Failure
from exporter.families import Family
from exporter.snapshot import Board, Snapshot
from exporter.sources import Plan, Source
from tests.exporter.awkward import NOW
from tests.waiting import until


class Fake:
    """A source that does what a test says, and notes what is done to it."""

    def __init__(self, look: Callable[[], float]) -> None:
        self._look = look
        self.looks = 0
        self.closed_in: str | None = None
        self.looked_in: set[str] = set()

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        assert (now, timeout) == (NOW, 5)
        self.looks += 1
        self.looked_in.add(threading.current_thread().name)
        return (Family("figure", "A figure.", samples={(): self._look()}),)

    def wait(self, seconds: float) -> None:
        pass

    def check(self, now: datetime, timeout: float) -> None:
        raise NotImplementedError

    def rest(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        self.closed_in = threading.current_thread().name


def plan(
    name: str, source: Source, *, basis: str = "", interval: float = 0.02, timeout: float = 5, database: str = "db"
) -> Plan:
    return Plan(name, interval, timeout, basis, lambda: source, database)


def fails() -> float:
    raise DatabaseError("table missing", Failure.REFUSED, "grant it")


def breaks() -> float:
    raise KeyError("a mistake in the program")


@pytest.fixture
def board() -> Board:
    return Board(Snapshot())


@pytest.fixture
def collector(board: Board) -> Iterator[Collector]:
    made = Collector(board, 5, clock=lambda: NOW)
    yield made
    made.stop()


def up(board: Board) -> dict[str, bool | None]:
    return {name: state.up(time.monotonic()) for name, state in board.snapshot.states.items()}


@pytest.mark.parametrize("look", [fails, breaks])
def test_a_failing_source_does_not_hide_the_others(
    board: Board, collector: Collector, look: Callable[[], float]
) -> None:
    good, bad = Fake(lambda: 1), Fake(look)
    with capture_logs():
        collector.start([plan("bad", bad), plan("good", good)])
        until(lambda: good.looks > 3 and bad.looks > 3, "both are looked at again and again")
    assert up(board) == {"bad": False, "good": True}
    assert board.snapshot.states["good"].families == (Family("figure", "A figure.", samples={(): 1.0}),)
    assert board.snapshot.states["bad"].families == ()


def test_a_failure_is_on_the_board_with_its_hint_and_logged_once(board: Board, collector: Collector) -> None:
    bad = Fake(fails)
    with capture_logs() as entries:
        collector.start([plan("orders", bad)])
        until(lambda: bad.looks > 5, "it is looked at again and again")
    state = board.snapshot.states["orders"]
    assert (state.error, state.hint, state.succeeded_at) == ("table missing", "grant it", None)
    assert [(entry["event"], entry["source"], entry["error"]) for entry in entries] == [
        ("source failed", "orders", "table missing")
    ]


def test_a_mistake_in_the_program_is_logged_with_its_traceback_and_once(board: Board, collector: Collector) -> None:
    bad = Fake(breaks)
    with capture_logs() as entries:
        collector.start([plan("orders", bad)])
        until(lambda: bad.looks > 5, "it is looked at again and again")
    assert [(entry["event"], entry.get("exc_info"), entry.get("error")) for entry in entries] == [
        ("source failed unexpectedly", True, None),
        ("source failed", None, "'a mistake in the program'"),
    ]


def test_a_source_that_fails_keeps_what_it_found_before(board: Board, collector: Collector) -> None:
    answers = iter([7.0])
    source = Fake(lambda: next(answers, None) or fails())
    with capture_logs():
        collector.start([plan("orders", source)])
        until(lambda: board.snapshot.states["orders"].error, "it fails")
    state = board.snapshot.states["orders"]
    assert state.families[0].value() == 7
    assert state.succeeded_at == NOW
    assert state.error == "table missing"


def test_a_hanging_source_has_one_thread_and_no_second_look(board: Board, collector: Collector) -> None:
    released = threading.Event()
    good = Fake(lambda: 1)
    hanging = Fake(lambda: float(released.wait(30)))
    collector.start([plan("hanging", hanging), plan("good", good)])
    until(lambda: good.looks > 20, "the other is looked at many times")
    assert hanging.looks == 1
    state = board.snapshot.states["hanging"]
    assert state.running_since is not None
    assert state.up(state.running_since + 4.9) is None
    assert state.up(state.running_since + 5) is False
    released.set()
    until(lambda: up(board)["hanging"], "it is up")


def test_a_hanging_source_is_told_though_its_own_thread_cannot_tell(board: Board) -> None:
    released = threading.Event()

    class Hanging(Fake):
        def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
            del now, timeout
            return (Family("figure", "A figure.", samples={(): self._look()}),)

    looks: list[int] = []

    def look() -> float:
        looks.append(1)
        return float(len(looks) == 1 and released.wait(30))

    collector = Collector(board, 5, clock=lambda: NOW)
    with capture_logs() as entries:
        collector.start([plan("orders", Hanging(look), timeout=0.1)])
        until(lambda: entries, "it is told")
        released.set()
        # what it found after all is of the past: it is looked at anew, and at once
        until(lambda: board.snapshot.states["orders"].succeeded_at, "it has succeeded")
        until(lambda: len(entries) > 1, "that is told as well")
        collector.stop()
    assert [entry["event"] for entry in entries] == ["database unreachable", "database reachable again"]
    assert entries[0]["error"] == HANGS
    assert len(looks) >= 2


def test_sources_that_stay_the_same_go_on_through_a_reload(board: Board, collector: Collector) -> None:
    stays, changes, new = Fake(lambda: 1), Fake(lambda: 2), Fake(lambda: 3)
    collector.start([plan("stays", stays), plan("changes", changes, basis="old"), plan("goes", Fake(lambda: 0))])
    until(lambda: all(up(board).values()), "all are up")
    before = board.snapshot.states["stays"]
    collector.exchange([plan("stays", Fake(lambda: 9)), plan("changes", new, basis="new")], max_age=5)
    assert list(board.snapshot.states) == ["stays", "changes"]
    assert board.snapshot.states["stays"].families == before.families
    until(lambda: new.looks, "the new one is looked at")
    until(lambda: changes.closed_in, "the old one is closed")
    assert {changes.closed_in} == changes.looked_in == {"source changes"}  # by the thread that used it
    looks = stays.looks
    until(lambda: stays.looks > looks, "the one that stays goes on")
    assert board.snapshot.states["changes"].families[0].value() == 3


def test_a_source_that_ends_late_does_not_disturb_its_successor(board: Board, collector: Collector) -> None:
    released = threading.Event()
    late = Fake(lambda: float(released.wait(30)))
    collector.start([plan("orders", late, basis="old", timeout=5)])
    until(lambda: late.looks, "it hangs")
    collector.exchange([], max_age=5)
    released.set()
    until(lambda: late.closed_in, "it has ended")
    assert dict(board.snapshot.states) == {}


def test_a_reload_begins_no_look_behind_one_that_hangs_at_the_same_database(board: Board, collector: Collector) -> None:
    released = threading.Event()
    hanging = Fake(lambda: float(released.wait(30)))
    with capture_logs() as entries:
        collector.start([plan("database", hanging, basis="0")])
        until(lambda: hanging.looks, "it hangs")
        board.change_state("database", lambda state: replace(state, running_since=time.monotonic() - 7))
        until(lambda: entries, "it is told")
        successors = [Fake(lambda: 1) for _ in range(3)]
        for number, successor in enumerate(successors):
            collector.exchange([plan("database", successor, basis=f"{number + 1}")], max_age=5)
            assert up(board) == {"database": False}
            assert board.snapshot.states["database"].trouble(time.monotonic()) == (
                "no answer within the time-out (is it frozen, or the network dead?)"
            )
        names = ["source database"] * 2  # the one that hangs, and the one that waits for it
        until(lambda: [t.name for t in threading.enumerate() if t.name == names[0]] == names, "the others have ended")
        assert [successor.looks for successor in successors] == [0, 0, 0]
        released.set()
        until(lambda: up(board)["database"], "it is up")
        until(lambda: len(entries) > 1, "that is told as well")
    assert [successor.looks > 0 for successor in successors] == [False, False, True]
    assert [entry["event"] for entry in entries] == ["database unreachable", "database reachable again"]


def test_a_source_that_hangs_at_another_database_is_waited_for_no_longer_than_its_time_out(
    board: Board, collector: Collector
) -> None:
    released = threading.Event()
    hanging, successor = Fake(lambda: float(released.wait(30))), Fake(lambda: 1)
    with capture_logs():
        collector.start([replace(plan("orders", hanging, database="old"), timeout=5)])
        until(lambda: hanging.looks, "it hangs")
        collector.exchange([plan("orders", successor, database="new")], max_age=5)
        assert up(board) == {"orders": None}
        until(lambda: successor.looks, "the new one is looked at", 20)
    released.set()


def test_a_reload_shows_neither_up_nor_down_anew(board: Board, collector: Collector) -> None:
    good, bad = Fake(lambda: 1), Fake(fails)
    with capture_logs() as entries:
        collector.start([plan("good", good, interval=60), plan("bad", bad, interval=60)])
        until(lambda: up(board) == {"good": True, "bad": False}, "both were looked at")
        released = threading.Event()
        later = Fake(lambda: float(released.wait(30)))
        collector.exchange([plan("good", later, basis="1"), plan("bad", later, basis="1")], max_age=5)
        assert up(board) == {"good": True, "bad": False}
        assert board.snapshot.shown("good", time.monotonic()) is None  # it was found by other settings
        released.set()
        until(lambda: all(up(board).values()), "both are up")
        until(lambda: len(entries) > 1, "that is told")
    assert [entry["event"] for entry in entries] == ["source failed", "source recovered"]


def test_sources_that_begin_together_do_not_look_together_again(board: Board, collector: Collector) -> None:
    looks: list[str] = []
    names = ("database", "orders", "dispatches")

    def look(name: str) -> float:
        looks.append(name)
        return 1

    collector.start([plan(name, Fake(functools.partial(look, name)), interval=1.5) for name in names])
    until(lambda: len(looks) >= 9, "each has looked three times")
    assert sorted(looks[:3]) == sorted(names)
    assert looks[3:9] == [*names, *names]


def test_what_was_found_is_good_for_so_many_of_the_intervals_in_force(board: Board, collector: Collector) -> None:
    source = Fake(lambda: 1)
    collector.start([plan("orders", source, interval=3600)])
    state = until(
        lambda: board.snapshot.states["orders"] if board.snapshot.states["orders"].succeeded_at else None, "it is up"
    )
    assert state.fresh_until is not None
    assert state.fresh((state.fresh_until or 0) - 1)
    assert not state.fresh(state.fresh_until)
    collector.exchange([], max_age=5)


SLOW = DatabaseError("out of time", Failure.SLOW)
BUSY = DatabaseError("locked", Failure.BUSY)
DOWN = DatabaseError("refused", Failure.UNREACHABLE)


@pytest.mark.parametrize(
    ("duration", "error", "loads_database", "interval"),
    [
        (0.2, None, True, 15),
        (1.5, None, True, 15),
        (3.0, None, True, 30),
        (5.0, SLOW, True, 50),
        (4.0, BUSY, True, 15),  # waiting costs the database nothing
        (5.0, DOWN, True, 15),
        (180, DOWN, True, 15),
        (3.0, None, False, 15),  # of the host's own time
    ],
)
def test_a_slow_source_takes_a_tenth_of_the_time_at_most(
    duration: float, error: DatabaseError | None, loads_database: bool, interval: float
) -> None:
    made = Plan("orders", 15, 5, "", lambda: Fake(lambda: 1), "db" if loads_database else None)
    assert next_interval(made, duration, error) == interval


@pytest.mark.parametrize(("duration", "seconds"), [(0.2, 3.75), (0.5, 5), (3.0, 30)])
def test_the_second_look_may_come_early_but_never_for_more_than_a_tenth_of_the_time(
    duration: float, seconds: float
) -> None:
    made = Plan("orders", 15, 5, "", lambda: Fake(lambda: 1), "db")
    assert next_interval(made, duration, None, part=0.25) == seconds
