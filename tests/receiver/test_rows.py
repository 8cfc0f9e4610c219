"""Many new rows at once, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, insert, select

from receiver.rows import insert_rows
from receiver.store import Store, StoreUnavailableError
from receiver.tables import insert_into, seen
from tests.receiver.making import NOW


def keys(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"key": f"k{number:05}", "notification_id": number or None, "seen_at": NOW + timedelta(microseconds=number)}
        for number in range(start, start + count)
    ]


def stored(store: Store) -> list[dict[str, Any]]:
    return store.read(
        lambda connection: [dict(row) for row in connection.execute(select(seen).order_by(seen.c.key)).mappings().all()]
    )


def take(connection: Connection, rows: list[dict[str, Any]], expired: timedelta) -> list[Any]:
    new = insert_into(connection.dialect.name, seen)
    statement = new.on_conflict_do_update(
        index_elements=[seen.c.key],
        set_={"seen_at": new.excluded.seen_at},
        where=seen.c.seen_at <= bindparam("expired"),
    ).returning(seen.c.key)
    return insert_rows(connection, statement, rows, expired=NOW + expired)


@pytest.mark.parametrize("count", [1, 2, 1000, 2500])
def test_every_row_is_there_as_it_was_given(store: Store, count: int) -> None:
    assert store.write(lambda connection: insert_rows(connection, insert(seen), keys(count))) == []
    assert stored(store) == keys(count)


def test_what_the_statement_returns_is_told_of_each(store: Store) -> None:
    rows = keys(2500)
    store.write(lambda connection: insert_rows(connection, insert(seen), rows[:1200]))
    taken = store.write(lambda connection: take(connection, rows, timedelta(microseconds=9)))
    assert sorted(taken) == [f"k{number:05}" for number in [*range(10), *range(1200, 2500)]]


def test_no_rows_are_no_statement(store: Store) -> None:
    assert store.write(lambda connection: insert_rows(connection, insert(seen), [])) == []
    assert stored(store) == []


def test_row_that_cannot_be_stored_takes_the_others_back(store: Store) -> None:
    rows = [*keys(2), *keys(1)]
    with pytest.raises(StoreUnavailableError):
        store.write(lambda connection: insert_rows(connection, insert(seen), rows))
    assert stored(store) == []
