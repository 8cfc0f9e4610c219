"""The store when things go wrong beneath it: locked, full, gone, twice at once; and that it recovers by itself."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event, func, insert, select, text, update

from receiver import migrations
from receiver.claiming import Wanted, is_any_due
from receiver.store import Store, StoreUnavailableError, read_url
from receiver.tables import REVISION, heartbeats, metadata, recipients
from tests.databases import PostgreSQL
from tests.receiver.conftest import new_database
from tests.receiver.making import NOW
from tests.waiting import until


def beat(name: str, connection: Connection) -> None:
    connection.execute(insert(heartbeats).values(name=name, seen_at=NOW))


def write(store: Store, name: str) -> None:
    store.write(lambda connection: beat(name, connection))


def test_what_it_makes_is_for_its_own_user_alone(file: Path) -> None:
    """Who is told what, with addresses and numbers, concerns nobody else on the machine."""
    before = os.umask(0o022)
    try:
        with opened(f"sqlite:///{file}") as store:
            write(store, "one")
            modes = {made.name: f"{made.stat().st_mode & 0o777:o}" for made in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"receiver.db": "600", "receiver.db-wal": "600", "receiver.db-shm": "600"}


def names(store: Store) -> list[str]:
    return sorted(store.read(lambda connection: connection.execute(select(heartbeats.c.name)).scalars().all()))


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store]:
    store = Store(read_url(url))
    store.start()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "receiver.db"


@pytest.fixture
def sqlite_store(file: Path) -> Iterator[Store]:
    with opened(f"sqlite:///{file}") as store:
        yield store


def test_tables_are_what_the_migrations_make(store: Store) -> None:
    def has_no_expression(_object: object, name: str | None, *_of: object) -> bool:
        return name != "deliveries_open"  # alembic compares no expressions; the next test does

    found = store.read(
        lambda connection: compare_metadata(
            MigrationContext.configure(connection, opts={"include_object": has_no_expression}), metadata
        )
    )
    assert found == []


def test_version_of_the_tables_is_the_newest_migration() -> None:
    assert migrations.revisions()[0] == REVISION


def test_store_that_is_up_to_date_is_opened_without_alembic(sqlite_store: Store, file: Path) -> None:
    names(sqlite_store)
    program = (
        "import sys; from receiver.store import Store, read_url; store = Store(read_url(sys.argv[1])); store.start(); "
        "print(store.read(lambda c: c.exec_driver_sql('SELECT count(*) FROM deliveries').scalar()), "
        "'alembic' in sys.modules); store.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{file}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 False\n"


def test_migration_may_take_longer_than_any_other_statement(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = migrations.upgrade

    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(2.5)"))  # an index over years of history
        upgrade(connection)

    monkeypatch.setattr("receiver.store._STATEMENT_SECONDS", 1)
    monkeypatch.setattr(migrations, "upgrade", slow)
    with opened(new_database(postgresql)) as store:
        write(store, "a")
        assert names(store) == ["a"]


def test_indexes_are_what_the_migrations_make(sqlite_store: Store, tmp_path: Path) -> None:
    statement = text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name")
    engine = create_engine(f"sqlite:///{tmp_path}/plain.db")
    metadata.create_all(engine)
    with engine.connect() as connection:
        plain = connection.execute(statement).scalars().all()
    engine.dispose()
    migrated = sqlite_store.read(lambda connection: connection.execute(statement).scalars().all())
    assert migrated == plain


def test_store_of_a_newer_version_is_unavailable_and_left_as_it_is(database_url: str) -> None:
    """As after an upgrade that was taken back."""
    with opened(database_url) as store:
        store.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    words = "its tables are of a newer version \\(schema 9999\\): install that one"
    with opened(database_url) as store:
        with pytest.raises(StoreUnavailableError, match=words):
            names(store)
        with pytest.raises(StoreUnavailableError, match=words):
            write(store, "one")
        assert not store.took_last_write
        assert store.inspect().revision == "9999"


@pytest.mark.parametrize(("statement", "index"), [("claim", "deliveries_open"), ("held", "deliveries_held")])
def test_what_is_asked_most_is_found_by_an_index(sqlite_store: Store, statement: str, index: str) -> None:
    wanted = Wanted("email", NOW)

    def plan(connection: Connection) -> str:
        found: list[str] = []

        @event.listens_for(connection, "before_cursor_execute")
        def explain(_c: object, cursor: Any, sql: str, values: Any, *_more: object) -> None:
            found.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}", values))

        is_any_due(connection, wanted)
        return "\n".join(found)

    tables = {"claim": "deliveries", "held": "first_held"}
    assert f"SEARCH {tables[statement]} USING INDEX {index}" in sqlite_store.read(plan)


def test_two_processes_may_start_on_an_empty_database_at_once(database_url: str) -> None:
    program = (
        "import sys; from receiver.store import Store, read_url; store = Store(read_url(sys.argv[1])); store.start(); "
        "print(store.write(lambda c: c.exec_driver_sql('SELECT count(*) FROM alembic_version').scalar())); "
        "store.close()"
    )
    command = [sys.executable, "-c", program, database_url]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in started] == ["1\n"] * 4


def test_sqlite_waits_for_the_disk_on_every_commit(sqlite_store: Store) -> None:
    def ask(connection: Connection) -> tuple[Any, Any]:
        return (
            connection.exec_driver_sql("PRAGMA journal_mode").scalar(),
            connection.exec_driver_sql("PRAGMA synchronous").scalar(),
        )

    assert sqlite_store.write(ask) == ("wal", 2)


def test_what_waits_is_committed_together(sqlite_store: Store) -> None:
    commits: list[Connection] = []
    names(sqlite_store)
    event.listen(sqlite_store._engine, "commit", commits.append)
    entered, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        beat("first", connection)
        entered.set()
        go_on.wait(20)

    threads = [threading.Thread(target=sqlite_store.write, args=(slow,))]
    threads[0].start()
    entered.wait(20)
    threads += [threading.Thread(target=write, args=(sqlite_store, f"n{number}")) for number in range(9)]
    for thread in threads[1:]:
        thread.start()
    until(lambda: sqlite_store._jobs.qsize() == 9, "all nine wait")
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(names(sqlite_store)) == 10
    assert len(commits) == 2


@contextlib.contextmanager
def busy(*stores: Store) -> Iterator[None]:
    """What is written together meanwhile waits, and is one piece of work then."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def wait(_connection: Connection, items: Sequence[None]) -> Sequence[None]:
        entered.release()
        go_on.wait(20)
        return items

    held = [store.write_together(wait, None) for store in stores]
    for _ in stores:
        assert entered.acquire(timeout=20)
    yield
    go_on.set()
    assert [one.result(20) for one in held] == [None] * len(stores)


def test_items_that_wait_for_the_same_work_are_handed_to_it_together(store: Store) -> None:
    handed: list[list[int]] = []

    def double(_connection: Connection, items: Sequence[int]) -> list[int]:
        handed.append(list(items))
        return [2 * item for item in items]

    with busy(store):
        answers = [store.write_together(double, number) for number in range(5)]
    assert [answer.result(20) for answer in answers] == [0, 2, 4, 6, 8]
    assert handed == [[0, 1, 2, 3, 4]]


def test_an_item_at_fault_fails_alone(store: Store) -> None:
    write(store, "a")

    def beat_all(connection: Connection, items: Sequence[str]) -> Sequence[str]:
        for item in items:
            beat(item, connection)
        return items

    with busy(store):
        answers = [store.write_together(beat_all, name) for name in ("b", "a", "c")]
    assert [type(answer.exception(20)) for answer in answers] == [type(None), StoreUnavailableError, type(None)]
    assert names(store) == ["a", "b", "c"]


def test_two_receivers_that_wait_for_each_other_both_write_in_the_end(postgresql: PostgreSQL) -> None:
    url = new_database(postgresql)
    crossed = threading.Barrier(2)

    def beat_again(connection: Connection, items: Sequence[str]) -> Sequence[str]:
        for item in items:
            connection.execute(update(heartbeats).where(heartbeats.c.name == item).values(seen_at=NOW))
            if len(items) > 1 and item == items[0]:
                crossed.wait(20)
        return items

    with opened(url) as one, opened(url) as other:
        for name in ("a", "b"):
            write(one, name)
        with busy(one, other):
            answers = [one.write_together(beat_again, name) for name in ("a", "b")]
            answers += [other.write_together(beat_again, name) for name in ("b", "a")]
        assert [answer.result(20) for answer in answers] == ["a", "b", "b", "a"]
        assert one.took_last_write
        assert other.took_last_write


def test_wrong_piece_of_work_fails_alone(sqlite_store: Store) -> None:
    write(sqlite_store, "a")
    with pytest.raises(StoreUnavailableError, match="UNIQUE"):
        write(sqlite_store, "a")
    with pytest.raises(ZeroDivisionError):
        sqlite_store.write(lambda _connection: 1 // 0)
    write(sqlite_store, "b")
    assert names(sqlite_store) == ["a", "b"]


def test_locked_store_is_unavailable_and_recovers(sqlite_store: Store, file: Path) -> None:
    write(sqlite_store, "before")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="database is locked"):
            write(sqlite_store, "meanwhile")
    write(sqlite_store, "after")
    assert names(sqlite_store) == ["after", "before"]


def test_full_store_is_unavailable_and_recovers(file: Path) -> None:
    with opened(f"sqlite:///{file}") as store:
        pages = store.write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar())

        def limit(connection: Any, most: int | None = pages) -> None:
            connection.execute(f"PRAGMA max_page_count = {most}")

        store.write(lambda connection: limit(connection.connection.dbapi_connection))

        def fill() -> None:
            for number in range(1_000):
                write(store, f"{number:060}")

        with pytest.raises(StoreUnavailableError, match="database or disk is full"):
            fill()
        store._engine.dispose()  # the limit is the connection's; on a disk, somebody makes room
        write(store, "after")
        assert "after" in names(store)


def test_failed_commit_leaves_no_transaction_behind(sqlite_store: Store) -> None:
    write(sqlite_store, "one")

    def no_delivery(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")  # so that the COMMIT itself fails
        connection.execute(insert(recipients).values(delivery_id=1, position=0, address="a", state="waiting"))

    with pytest.raises(StoreUnavailableError):
        sqlite_store.write(no_delivery)
    assert names(sqlite_store) == ["one"]
    write(sqlite_store, "two")


def test_read_only_store_is_unavailable_and_recovers(sqlite_store: Store) -> None:
    write(sqlite_store, "before")

    @contextlib.contextmanager
    def read_only() -> Iterator[None]:
        sqlite_store.read(lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON"))
        yield
        sqlite_store._engine.dispose()

    with read_only(), pytest.raises(StoreUnavailableError, match="readonly database"):
        write(sqlite_store, "meanwhile")
    write(sqlite_store, "after")
    assert names(sqlite_store) == ["after", "before"]


def test_removed_file_is_noticed_and_made_anew(sqlite_store: Store, file: Path) -> None:
    write(sqlite_store, "lost")
    file.unlink()
    write(sqlite_store, "kept")
    with opened(f"sqlite:///{file}") as other:
        assert names(other) == ["kept"]


def test_file_that_goes_during_the_commit_is_no_success(sqlite_store: Store, file: Path) -> None:
    def remove(connection: Connection) -> None:
        beat("lost", connection)
        file.unlink()

    with pytest.raises(StoreUnavailableError, match="file is gone"):
        sqlite_store.write(remove)


def test_missing_folder_is_unavailable_and_recovers(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/mounted/receiver.db") as store:
        with pytest.raises(StoreUnavailableError, match="unable to open database file"):
            write(store, "before")
        (tmp_path / "mounted").mkdir()
        write(store, "after")
        assert names(store) == ["after"]


def test_stopped_postgresql_is_unavailable_and_recovers(postgresql: PostgreSQL) -> None:
    with opened(new_database(postgresql)) as store:
        write(store, "before")
        postgresql.stop()
        try:
            with pytest.raises(StoreUnavailableError, match="connection"):
                write(store, "meanwhile")
        finally:
            postgresql.start()
        write(store, "after")
        assert names(store) == ["after", "before"]


def test_locked_postgresql_is_unavailable_and_recovers(postgresql: PostgreSQL) -> None:
    with opened(new_database(postgresql)) as store, opened(new_database(postgresql)):
        write(store, "before")
        with store._engine.connect() as other:
            other.execute(text("LOCK TABLE heartbeats"))
            with pytest.raises(StoreUnavailableError, match="lock timeout"):
                write(store, "meanwhile")
        write(store, "after")
        assert store.read(lambda c: c.execute(select(func.count()).select_from(heartbeats)).scalar()) == 2


def test_error_holds_no_password(tmp_path: Path) -> None:
    with opened("postgresql://user:geheim@127.0.0.1:1/none") as store, pytest.raises(StoreUnavailableError) as caught:
        write(store, "never")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("receiver.db", "write a URL such as"),
        ("mysql://h/d", "mysql is not supported"),
        ("postgresql://u:p@ss:word@h/d", "is each of @ : / [?] # % in the password percent-encoded"),
        ("postgresql://u:p@h:99999/d", "the port is a number from 1 to 65535"),
        ("sqlite://", "nothing would survive a restart"),
        ("sqlite:///:memory:", "nothing would survive a restart"),
    ],
)
def test_address_that_cannot_be_used_is_refused(value: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_url(value)
