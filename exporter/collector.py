"""One thread a source, each at its own pace: what one of them waits for is nobody else's business."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

import structlog

from exporter.databases import DatabaseError, Failure
from exporter.families import Family
from exporter.outages import Outages
from exporter.periods import OFF, Desk, Question
from exporter.snapshot import HANGING_SECONDS, HANGS_HINT, Board, Snapshot, SourceState
from exporter.sources import Plan, Source

__all__ = ["Collector", "next_interval"]

log = structlog.get_logger(__name__)

SHARE_OF_TIME = 0.1
"""The most of its time that a source may spend in the database."""

HANGS = "no answer within the time-out, which the server itself should have kept"
WAITED_FOR = f"{HANGS_HINT} this look is waited for, and no second one begun behind it"

PROCESS_SECONDS = 5.0
"""How often the figures of this process are read."""


def cost(duration: float, error: Exception | None) -> float:
    """Seconds that the database worked: waiting for a lock, a connection or a frozen server costs it nothing."""
    worked = error is None or (isinstance(error, DatabaseError) and error.failure is Failure.SLOW)
    return duration if worked else 0.0


def next_interval(
    plan: Plan, duration: float, error: Exception | None, asked: float = 0.0, *, part: float = 1.0
) -> float:
    """Seconds from the begin of the last look to the next: as configured, or ten times what the last one cost.

    `asked` is what the database worked on questions since the look before. `part` of the configured interval is enough.
    """
    if plan.database is None:
        return plan.interval
    return max(plan.interval * part, (cost(duration, error) + asked) / SHARE_OF_TIME)


class Collector:
    """Starts, watches, exchanges and stops the threads of the sources."""

    def __init__(
        self,
        board: Board,
        max_age: int,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        process: Callable[[], Iterable[Family]] = tuple,
    ) -> None:
        self._board = board
        self._outages = Outages()
        self._max_age = max_age
        self._clock = clock
        self._process = process
        self._workers: dict[str, _Worker] = {}
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._keep_watch, name="watch", daemon=True)

    def start(self, plans: Sequence[Plan]) -> None:
        """Starts a thread for each plan and one that watches them."""
        self._show_process(tuple(self._process()))
        self.exchange(plans, self._max_age)
        self._watch.start()

    def stop(self) -> None:
        """Tells every thread to end, and waits for none: one that hangs in a driver ends with the process."""
        self._stopped.set()
        for worker in self._workers.values():
            worker.stop()

    def exchange(self, plans: Sequence[Plan], max_age: int) -> None:
        """From now on these sources; one whose plan stays the same goes on undisturbed."""
        self._max_age = max_age
        new = {plan.name: plan for plan in plans}
        previous = self._workers
        gone = {name: worker for name, worker in previous.items() if new.get(name) != worker.plan}
        handed_on = {name for name in gone if name in new and new[name].database == gone[name].plan.database}
        for name, worker in gone.items():
            worker.stop()
            if name not in handed_on:
                self._outages.forget(name)
        # all look at once when they begin, and then in turn, lest the database get the work of all at one time
        parts = {name: (place + 1) / len(new) for place, name in enumerate(new)}
        fresh = {
            name: _Worker(
                plan,
                parts[name],
                self._board,
                self._outages,
                self._clock,
                lambda: self._max_age,
                previous[name].at_work if name in previous else None,
            )
            for name, plan in new.items()
            if name not in previous or name in gone
        }
        self._workers = {name: fresh.get(name) or previous[name] for name in new}

        def apply(snapshot: Snapshot) -> Snapshot:
            now = time.monotonic()
            states = {}
            for name, plan in new.items():
                if name not in fresh:
                    states[name] = snapshot.states[name]
                elif name in handed_on:
                    states[name] = snapshot.states[name].handed_on(plan.interval, plan.timeout, now)
                else:
                    states[name] = SourceState(name, plan.interval, plan.timeout)
            return replace(snapshot, states=MappingProxyType(states))

        self._board.change(apply)
        for worker in fresh.values():
            worker.start()

    def ask(self, name: str, question: Question) -> None:
        """Has the source answer between two looks."""
        worker = self._workers.get(name)
        if worker is None:
            question.answer.set_result(OFF)
        else:
            worker.desk.ask(question)

    def wait_for_first(self, seconds: float) -> None:
        """Returns when every source has been looked at once, or after that long."""
        deadline = time.monotonic() + seconds
        for worker in self._workers.values():
            worker.looked.wait(max(0.0, deadline - time.monotonic()))

    def _keep_watch(self) -> None:
        """Tells of looks that hang, for their own threads cannot; keeps the figures of this process fresh."""
        refreshed = time.monotonic()
        while not self._stopped.wait(0.5):
            now = time.monotonic()
            for state in self._board.snapshot.states.values():
                if state.overdue_at is not None and now >= state.overdue_at + HANGING_SECONDS:
                    worker = self._workers.get(state.name)
                    database = worker is not None and worker.plan.database is not None
                    self._outages.failed(state.name, HANGS, WAITED_FOR, connection=database)
            if now >= refreshed + PROCESS_SECONDS:
                refreshed = now
                self._show_process(tuple(self._process()))

    def _show_process(self, families: tuple[Family, ...]) -> None:
        self._board.change(lambda snapshot: replace(snapshot, process=families))


@dataclass(frozen=True)
class _Attempt:
    """What came of looking. Moments and durations are monotonic seconds, but for `moment`."""

    moment: datetime
    started: float
    ended: float
    families: tuple[Family, ...]
    failure: Exception | None
    hung: bool

    @property
    def duration(self) -> float:
        return self.ended - self.started

    @property
    def message(self) -> str | None:
        return _words(self.failure) if self.failure is not None else None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Worker:
    """The thread of one source."""

    def __init__(
        self,
        plan: Plan,
        part: float,
        board: Board,
        outages: Outages,
        clock: Callable[[], datetime],
        max_age: Callable[[], int],
        predecessor: _Worker | None,
    ) -> None:
        self.plan = plan
        self._part = part  # of its interval, after which the second look is due
        self.looked = threading.Event()
        self.desk = Desk()
        self._asked_seconds = 0.0  # what the database worked on questions since the last look
        self._board = board
        self._outages = outages
        self._clock = clock
        self._max_age = max_age
        self._predecessor = predecessor
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {plan.name}", daemon=True)

    @property
    def at_work(self) -> _Worker:
        """Whom a successor has to wait for: itself, or its own predecessor, for whom it waits still."""
        return self._predecessor or self

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self.desk.close()

    def _await_predecessor(self) -> None:
        """Lest there be two connections; but one that hangs at another database is waited for no longer than it may."""
        if self._predecessor is None:
            return
        plan, thread = self._predecessor.plan, self._predecessor._thread  # noqa: SLF001 - of its own kind
        same = plan.database is not None and plan.database == self.plan.database
        until = math.inf if same else time.monotonic() + plan.timeout
        while thread.is_alive() and time.monotonic() < until and not self._stopped.is_set():
            thread.join(0.1)
        if not self._stopped.is_set():
            self._predecessor = None

    def _run(self) -> None:
        self._await_predecessor()
        source: Source | None = None
        while not self._stopped.is_set():
            source = source or self.plan.make()
            rest = self._look(source)
            source.rest(rest)
            self._answer(source, time.monotonic() + rest)
        if source is not None:
            source.close()

    def _look(self, source: Source) -> float:
        """Looks once and says what came of it; the seconds until the next time."""
        attempt = self._attempt(source, source.collect)
        failure = attempt.failure
        interval = next_interval(self.plan, attempt.duration, failure, self._asked_seconds)
        rest = next_interval(self.plan, attempt.duration, failure, self._asked_seconds, part=self._part)
        self._asked_seconds, self._part = 0.0, 1.0
        if failure is None:
            self._change(
                lambda state: replace(
                    state,
                    interval=interval,
                    families=attempt.families,
                    succeeded_at=attempt.moment,
                    fresh_until=attempt.ended + self._max_age() * interval,
                    looked_at=attempt.moment,
                    duration=attempt.duration,
                    error=None,
                    hint="",
                    running_since=None,
                )
            )
            self._outages.recovered(self.plan.name)
        else:
            hint = failure.hint if isinstance(failure, DatabaseError) else ""
            self._change(
                lambda state: replace(
                    state,
                    interval=interval,
                    looked_at=attempt.moment,
                    duration=attempt.duration,
                    error=attempt.message,
                    hint=hint,
                    running_since=None,
                )
            )
            connection = isinstance(failure, DatabaseError) and failure.failure is Failure.UNREACHABLE
            self._outages.failed(self.plan.name, attempt.message or "", hint, connection=connection)
        self.looked.set()
        return 0.0 if attempt.hung else max(0.0, attempt.started + rest - time.monotonic())

    def _answer(self, source: Source, until: float) -> None:
        """Answers what is asked, until the next look is due."""
        while (question := self.desk.next(until)) is not None:
            attempt = self._attempt(source, functools.partial(question.look, source))
            self._change(lambda state: replace(state, running_since=None))
            seconds = cost(attempt.duration, attempt.failure)
            self._asked_seconds += seconds
            families = attempt.families if attempt.failure is None else None
            self.desk.settle(families, attempt.message, attempt.started, seconds)
            if attempt.hung:  # the next look tells whether it is over
                return
            source.rest(max(0.0, until - time.monotonic()))

    def _attempt(self, source: Source, look: Callable[[datetime, float], tuple[Family, ...]]) -> _Attempt:
        """One use of the source; `running_since` is left to be cleared together with what came of it.

        What it waits for others that share with it is no part of its time.
        """
        started, moment = time.monotonic(), self._clock()
        families: tuple[Family, ...] = ()
        failure: Exception | None = None
        try:
            source.wait(self.plan.timeout)
            started, moment = time.monotonic(), self._clock()
            self._change(lambda state: replace(state, running_since=started))
            families = look(moment, self.plan.timeout)
        except (DatabaseError, OSError) as error:
            failure = error
        except Exception as error:  # the loop that must not die
            if not self._outages.known(self.plan.name, _words(error)):
                log.exception("source failed unexpectedly", source=self.plan.name)
            failure = error
        ended = time.monotonic()
        hung = ended - started > self.plan.timeout + HANGING_SECONDS
        if hung:  # even if it has found something after all: that tells of the past
            failure = DatabaseError(HANGS, Failure.UNREACHABLE, WAITED_FOR)
        return _Attempt(moment, started, ended, families, failure, hung)

    def _change(self, change: Callable[[SourceState], SourceState]) -> None:
        # a successor's state is not this one's to change
        self._board.change_state(self.plan.name, lambda state: state if self._stopped.is_set() else change(state))
