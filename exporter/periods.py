"""Any period of the JSON API: asked of the source's own thread, on its connection, within the time that it may take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from exporter.families import Family
from exporter.snapshot import Board
from exporter.sources.plan import Source
from exporter.sources.table import TableSource

__all__ = ["OFF", "SHARE_OF_TIME", "Allowance", "Answer", "Desk", "Periods", "Question"]

SHARE_OF_TIME = 0.05
"""The most of its time that a source may spend on questions: half of all that it may spend in the database."""

SAVED_SECONDS = 1.0
"""How much of that time may be saved up, so that someone who looks through a few periods need not wait for each."""

KEPT_SECONDS = 5.0
"""How long an answer is good for."""

BEGIN_WITHIN_SECONDS = 5.0
"""How long a question may wait until the source comes to it."""

END_WITHIN_SECONDS = 1.0
"""How long past its time-out an answer is waited for."""

TABLES = ("orders", "dispatches")
"""The sources whose figures go by period."""


@dataclass(frozen=True)
class Answer:
    """What a source found for a period, or why it found nothing."""

    families: tuple[Family, ...] | None
    error: str | None = None
    good_until: float = float("-inf")
    """Until when, in monotonic seconds, it is given to others who ask the same."""


OFF = Answer(None, "the source is switched off")


@dataclass(frozen=True)
class Question:
    """Asked once, for all who want to know the same. Moments are monotonic seconds."""

    window: timedelta
    begin_before: float
    answer_before: float
    answer: Future[Answer] = field(default_factory=Future, compare=False)

    def __post_init__(self) -> None:
        self.answer.set_running_or_notify_cancel()  # from here on no caller who gives up can cancel it for the others

    def look(self, source: Source, now: datetime, timeout: float) -> tuple[Family, ...]:
        """What the source finds at `now` (aware); raises DatabaseError."""
        if not isinstance(source, TableSource):
            raise TypeError(f"{type(source).__name__} knows no periods")
        return source.collect_window(now, timeout, self.window)


@dataclass(frozen=True)
class Allowance:
    """When the next question may begin, after what the earlier ones cost."""

    free_at: float = float("-inf")

    def spend(self, started: float, cost: float) -> Allowance:
        """After a question that began at `started` and cost the database that many seconds."""
        return replace(self, free_at=max(self.free_at, started - SAVED_SECONDS / SHARE_OF_TIME) + cost / SHARE_OF_TIME)


class Desk:
    """Where a source's thread spends the time between two looks: it answers what is asked, one after the other."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._questions: deque[Question] = deque()
        self._taken: Question | None = None
        self._changed = threading.Condition()
        self._allowance = Allowance()
        self._closed = False

    def ask(self, question: Question) -> None:
        """Puts it behind those that are waiting."""
        with self._changed:
            if not self._closed:
                self._questions.append(question)
                self._changed.notify()
            else:
                question.answer.set_result(OFF)

    def next(self, until: float) -> Question | None:
        """The next question that may begin now; None once it is `until`, or all is over."""
        with self._changed:
            while not self._closed and (now := self._monotonic()) < until:
                while self._questions and now >= self._questions[0].begin_before:
                    self._questions.popleft().answer.set_result(
                        Answer(None, "too much is asked of the database: try again in a few seconds")
                    )
                if self._questions and now >= self._allowance.free_at:
                    self._taken = self._questions.popleft()
                    return self._taken
                moments = [until]
                if self._questions:
                    moments += [self._allowance.free_at, self._questions[0].begin_before]
                self._changed.wait(max(0.0, min(moments) - now))
        return None

    def settle(self, families: tuple[Family, ...] | None, error: str | None, started: float, cost: float) -> None:
        """Answers the question that was taken; it began at `started` and cost the database that many seconds."""
        with self._changed:
            self._allowance = self._allowance.spend(started, cost)
            kept = max(KEPT_SECONDS, cost / SHARE_OF_TIME)
            if self._taken is not None:
                self._taken.answer.set_result(Answer(families, error, self._monotonic() + kept))
                self._taken = None

    def close(self) -> None:
        """The end: whoever waits here is told so, for the answer that is looked for as well."""
        with self._changed:
            self._closed = True
            if self._taken is not None:
                self._questions.append(self._taken)
                self._taken = None
            while self._questions:
                self._questions.popleft().answer.set_result(OFF)
            self._changed.notify_all()


class Periods:
    """Shares each question among all who ask it, and keeps its answer for a while. For the event loop's thread."""

    def __init__(
        self, board: Board, ask: Callable[[str, Question], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._ask = ask
        self._monotonic = monotonic
        self._asked: dict[tuple[str, timedelta], Question] = {}

    async def find(self, window: timedelta) -> dict[str, Answer]:
        """By source, the figures of the last `window`; waits for both at once, and for a bounded time."""
        answers = await asyncio.gather(*(self._find(source, window) for source in TABLES))
        return dict(zip(TABLES, answers, strict=True))

    async def _find(self, source: str, window: timedelta) -> Answer:
        now = self._monotonic()
        self._forget(now)
        state = self._board.snapshot.states.get(source)
        if state is None:
            return OFF
        if state.up(now) is False:  # it would fail like the last look, or wait behind one that hangs
            return Answer(None, state.trouble(now))
        patience = BEGIN_WITHIN_SECONDS + state.timeout + END_WITHIN_SECONDS
        question = self._asked.get((source, window))
        if question is None:
            question = Question(window, now + BEGIN_WITHIN_SECONDS, now + patience)
            self._asked[source, window] = question
            self._ask(source, question)
        # asyncio.wait leaves the question alone when its time is up: others may be waiting for it
        await asyncio.wait([asyncio.wrap_future(question.answer)], timeout=patience)
        return question.answer.result() if question.answer.done() else Answer(None, "no answer within the time-out")

    def _forget(self, now: float) -> None:
        for key, question in list(self._asked.items()):
            answered = question.answer.done()
            if now >= (question.answer.result().good_until if answered else question.answer_before):
                del self._asked[key]
