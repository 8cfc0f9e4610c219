"""PostgreSQL connections that wait for a silent server for so long and no longer."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy import Engine, event

__all__ = ["bound"]

RV = TypeVar("RV")


class _SilentError(psycopg.OperationalError):
    """Said in place of the driver's words, of which it has none."""


def bound(engine: Engine, seconds: float) -> Engine:
    """Has the engine's connections close with an OperationalError where the server says nothing for `seconds`.

    A frozen one keeps them open, and its own statement_timeout is frozen with it.
    """

    class Connection(psycopg.Connection[TupleRow]):
        def wait(self, gen: PQGen[RV], *arguments: Any, **named: Any) -> RV:
            try:
                return super().wait(_until_silent(gen, seconds), *arguments, **named)
            except _SilentError:
                self.close()  # the answer to this question must not be taken for the next one's
                raise

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> Connection:
        return Connection.connect(*arguments, **named)

    return engine


def _until_silent(work: PQGen[RV], seconds: float) -> Generator[Any, Any, RV]:
    """As `work`, which is told every tenth of a second that there is nothing yet."""
    try:
        wanted, heard = next(work), time.monotonic()
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard >= seconds:
                raise _SilentError(f"the database has not answered for {seconds:g} s")
            wanted = work.send(ready)
    except StopIteration as done:
        result: RV = done.value
        return result
