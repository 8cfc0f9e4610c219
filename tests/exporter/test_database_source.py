"""A probe tries twice before it calls the database down, and both tries share its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from exporter.databases import DatabaseError, Failure, Reader
from exporter.sources.database import DatabaseSource
from tests.exporter.awkward import NOW

REFUSED = DatabaseError("refused", Failure.UNREACHABLE)
LOST = DatabaseError("server closed the connection", Failure.UNREACHABLE)


class Scripted:
    """A reader whose reads end as a test says: with a number of seconds, or an error."""

    def __init__(self, *ends: float | DatabaseError) -> None:
        self.ends = list(ends)
        self.timeouts: list[float] = []

    def read(self, work: Callable[..., Any], timeout: float) -> float:
        del work
        self.timeouts.append(timeout)
        end = self.ends.pop(0)
        if isinstance(end, DatabaseError):
            raise end
        return end


def seconds(reader: Scripted) -> float | None:
    """The response time that a probe finds."""
    (family,) = DatabaseSource(cast("Reader", reader)).collect(NOW, 5)
    return family.value()


def test_a_database_that_answers_is_probed_once() -> None:
    reader = Scripted(0.25)
    assert seconds(reader) == 0.25
    assert reader.timeouts == [2.5]


def test_one_failure_is_not_down() -> None:
    assert seconds(Scripted(LOST, 0.25)) == 0.25


def test_two_failures_are_down_in_the_words_of_the_second() -> None:
    reader = Scripted(LOST, REFUSED)
    with pytest.raises(DatabaseError, match="refused"):
        seconds(reader)
    assert reader.ends == []
