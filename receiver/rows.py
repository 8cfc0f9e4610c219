"""Many new rows at once.

To SQLite they go in one statement and past SQLAlchemy's own way: that takes longer than SQLite itself, and its steps
from row to row let go of the interpreter each time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, Insert
from sqlalchemy.engine import Dialect

__all__ = ["insert_rows"]

_AT_ONCE = 1000  # rows in one statement: SQLite takes 32,766 values


def insert_rows(
    connection: Connection, statement: Insert, rows: Sequence[Mapping[str, Any]], **rest: object
) -> list[Any]:
    """What the statement returns of each, if so: one column. `rest` are the values of its other parameters.

    Every row gives the same columns, and all that have no default in the database.
    """
    if not rows:
        return []
    if connection.dialect.name != "sqlite":
        done = connection.execute(statement, [{**row, **rest} for row in rows])
        return list(done.scalars()) if done.returns_rows else []
    returned: list[Any] = []
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        words = _words(statement, tuple(some[0]), connection.dialect)
        values = [write(row[name]) if write else row[name] for row in some for name, write in words.columns]
        values += [write(rest[name]) if write else rest[name] for name, write in words.others]
        done = connection.exec_driver_sql(words.of(len(some)), tuple(values))
        if done.returns_rows:
            returned += done.scalars()
    return returned


_Write: TypeAlias = Callable[[Any], Any] | None


@dataclass(frozen=True)
class _Words:
    """A statement as SQLAlchemy words it, and how the driver gets each of its values."""

    before: str
    row: str
    after: str
    columns: Sequence[tuple[str, _Write]]
    others: Sequence[tuple[str, _Write]]

    def of(self, count: int) -> str:
        return f"{self.before}{', '.join([self.row] * count)}{self.after}"


@functools.cache
def _words(statement: Insert, columns: tuple[str, ...], dialect: Dialect) -> _Words:
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    found = re.fullmatch(r"(INSERT INTO .*? VALUES )(\([?, ]+\))(.*)", str(compiled), re.DOTALL)
    if found is None:
        raise ValueError(f"no INSERT of rows: {compiled}")
    before, row, after = found.groups()
    writes = [
        (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        for name in compiled.positiontup or []
    ]
    return _Words(before, row, after, writes[: len(columns)], writes[len(columns) :])
