"""One thread a source, each at its own pace: what one of them waits for is nobody else's business."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

import structlog

from exporter.databases import DatabaseError, Failure
from exporter.families import Family
from exporter.outages import Outages
from exporter.snapshot import Board, Snapshot, SourceState
from exporter.sources import Plan, Source

__all__ = ["Collector", "next_interval"]

log = structlog.get_logger(__name__)

SHARE_OF_TIME = 0.1
"""The most of its time that a source may spend in the database."""

HANGING_SECONDS = 1.0
"""Past its time-out by more than this, a look was waiting for a frozen server and not loading it."""

HANGS = "no answer within the time-out, which the server itself should have kept"
HANGS_HINT = "is it frozen, or the network dead? this look is waited for, and no second one begun behind it"

PROCESS_SECONDS = 5.0
"""How often the figures of this process are read."""


def next_interval(plan: Plan, duration: float, error: Exception | None) -> float:
    """Seconds from the begin of the last look to the next: as configured, or ten times what the last one cost.

    Waiting for a lock, for a connection or for a frozen server costs the database nothing.
    """
    worked = error is None or (isinstance(error, DatabaseError) and error.failure is Failure.SLOW)
    if not plan.loads_database or not worked:
        return plan.interval
    return max(plan.interval, duration / SHARE_OF_TIME)


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
        for name, worker in gone.items():
            worker.stop()
            self._outages.forget(name)
        fresh = {
            name: _Worker(plan, self._board, self._outages, self._clock, lambda: self._max_age, previous.get(name))
            for name, plan in new.items()
            if name not in previous or name in gone
        }
        self._workers = {name: fresh.get(name) or previous[name] for name in new}

        def apply(snapshot: Snapshot) -> Snapshot:
            states = {
                name: SourceState(name, plan.interval, plan.timeout) if name in fresh else snapshot.states[name]
                for name, plan in new.items()
            }
            return replace(snapshot, states=MappingProxyType(states))

        self._board.change(apply)
        for worker in fresh.values():
            worker.start()

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
                    self._outages.failed(state.name, HANGS, HANGS_HINT, connection=True)
            if now >= refreshed + PROCESS_SECONDS:
                refreshed = now
                self._show_process(tuple(self._process()))

    def _show_process(self, families: tuple[Family, ...]) -> None:
        self._board.change(lambda snapshot: replace(snapshot, process=families))


class _Worker:
    """The thread of one source."""

    def __init__(
        self,
        plan: Plan,
        board: Board,
        outages: Outages,
        clock: Callable[[], datetime],
        max_age: Callable[[], int],
        predecessor: _Worker | None,
    ) -> None:
        self.plan = plan
        self.looked = threading.Event()
        self._board = board
        self._outages = outages
        self._clock = clock
        self._max_age = max_age
        self._predecessor = predecessor
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {plan.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        if self._predecessor is not None:  # lest there be two connections; but one that hangs is not waited for
            self._predecessor._thread.join(self._predecessor.plan.timeout)  # noqa: SLF001 - of its own kind
            self._predecessor = None
        source: Source | None = None
        while not self._stopped.is_set():
            source = source or self.plan.make()
            rest = self._look(source)
            source.rest(rest)
            self._stopped.wait(rest)
        if source is not None:
            source.close()

    def _look(self, source: Source) -> float:
        """Looks once and says what came of it; the seconds until the next time."""
        started = time.monotonic()
        self._change(lambda state: replace(state, running_since=started))
        families: tuple[Family, ...] = ()
        failure: Exception | None = None
        moment = self._clock()
        try:
            families = source.collect(moment, self.plan.timeout)
        except (DatabaseError, OSError) as error:
            failure = error
        except Exception as error:  # the loop that must not die
            log.exception("source failed unexpectedly", source=self.plan.name)
            failure = error
        ended = time.monotonic()
        duration = ended - started
        hung = duration > self.plan.timeout + HANGING_SECONDS
        if hung:  # even if it has found something after all: that tells of the past
            failure = DatabaseError(HANGS, Failure.UNREACHABLE, HANGS_HINT)
        interval = next_interval(self.plan, duration, failure)
        if failure is None:
            self._change(
                lambda state: replace(
                    state,
                    interval=interval,
                    families=families,
                    succeeded_at=moment,
                    fresh_until=ended + self._max_age() * interval,
                    duration=duration,
                    error=None,
                    hint="",
                    running_since=None,
                )
            )
            self._outages.recovered(self.plan.name)
        else:
            message = str(failure) or type(failure).__name__
            hint = failure.hint if isinstance(failure, DatabaseError) else ""
            self._change(
                lambda state: replace(
                    state, interval=interval, duration=duration, error=message, hint=hint, running_since=None
                )
            )
            connection = isinstance(failure, DatabaseError) and failure.failure is Failure.UNREACHABLE
            self._outages.failed(self.plan.name, message, hint, connection=connection)
        self.looked.set()
        return 0.0 if hung else max(0.0, started + interval - time.monotonic())

    def _change(self, change: Callable[[SourceState], SourceState]) -> None:
        # a successor's state is not this one's to change
        self._board.change_state(self.plan.name, lambda state: state if self._stopped.is_set() else change(state))
