"""SQLite belongs to a running system: it is never written, never held for long, and busy is not down."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from exporter.databases import DatabaseError, Failure, open_reader, parse_url
from exporter.databases.sqlite import READ_SECONDS
from exporter.sources.database import DatabaseSource
from tests.databases import SQLite
from tests.exporter.awkward import NOW

# counts to a number that takes some seconds
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT count(*) FROM n"


def count(url: str, sql: str = "SELECT count(*) FROM orders") -> int:
    """A number that is read as the sources read."""
    reader = open_reader(parse_url(url), 4)
    return reader.read(lambda connection: int(connection.exec_driver_sql(sql).scalar_one()), 4)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def others_folder() -> Iterator[Path]:
    """A folder that everybody may look into, and its owner alone may write."""
    with tempfile.TemporaryDirectory(prefix="coldchain-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_missing_file_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="unable to open database file") as caught:
        count(f"sqlite:///{tmp_path}/dispatch.db")
    assert caught.value.failure is Failure.UNREACHABLE
    assert "does the file exist" in caught.value.hint
    assert files(tmp_path) == []


def test_another_kind_of_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "dispatch.db").write_bytes(b"nothing of the kind" * 1000)
    with pytest.raises(DatabaseError, match="file is not a database") as caught:
        count(f"sqlite:///{tmp_path}/dispatch.db")
    assert caught.value.failure is Failure.UNREACHABLE


@pytest.mark.parametrize("name", ["배차 #1?.db", "100%.db"])
def test_any_file_name_is_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    SQLite(path)
    reader = open_reader(sqlalchemy.URL.create("sqlite", database=str(path)), 4)
    assert reader.read(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM orders").scalar(), 4) == 0


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_can_be_written(sqlite: SQLite, mode: str) -> None:
    sqlite.execute(f"PRAGMA journal_mode = {mode}")
    with pytest.raises(DatabaseError, match="readonly"):
        count(sqlite.url, "DELETE FROM orders RETURNING 1")


def test_a_read_is_ended_after_a_quarter_of_a_second(sqlite: SQLite) -> None:
    started = time.monotonic()
    with pytest.raises(DatabaseError, match="took longer than the 250 ms") as caught:
        count(sqlite.url, ENDLESS)
    assert caught.value.failure is Failure.SLOW
    assert time.monotonic() - started >= READ_SECONDS


def test_a_writer_gets_its_turn_while_a_slow_read_is_tried(sqlite: SQLite) -> None:
    reading = threading.Event()
    reader = open_reader(parse_url(sqlite.url), 4)

    def read() -> None:
        def work(connection: sqlalchemy.Connection) -> None:
            reading.set()
            connection.exec_driver_sql(f"SELECT (SELECT count(*) FROM orders) + ({ENDLESS})").all()

        with contextlib.suppress(DatabaseError):
            reader.read(work, 4)

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(5)
    with contextlib.closing(sqlite3.connect(sqlite.path, timeout=2)) as connection:  # far less than the read would take
        connection.execute("UPDATE orders SET priority = 1")
        connection.commit()
    thread.join()


def test_a_writer_makes_the_file_busy_and_not_the_database_down(sqlite: SQLite) -> None:
    with contextlib.closing(sqlite3.connect(sqlite.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="locked by a writer") as caught:
            count(sqlite.url)
        assert caught.value.failure is Failure.BUSY
        (family,) = DatabaseSource(open_reader(parse_url(sqlite.url), 2)).collect(NOW, 2)
        assert family.name == "coldchain_database_response_seconds"
        assert (family.value() or 0) > 0.2


def test_a_wal_database_is_read_while_the_system_has_it_open(sqlite: SQLite) -> None:
    with contextlib.closing(sqlite3.connect(sqlite.path)) as system:
        system.execute("PRAGMA journal_mode = wal")
        system.execute(
            "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) VALUES (1, 1, 1, 1, 1)"
        )
        system.commit()
        assert count(sqlite.url, "SELECT count(*) FROM vehicles") == 1  # it is in the WAL alone


def test_a_wal_database_that_nobody_has_open_is_read_without_making_files(sqlite: SQLite) -> None:
    sqlite.execute("PRAGMA journal_mode = wal")
    sqlite.execute("INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) VALUES (1, 1, 1, 1, 1)")
    assert files(sqlite.path.parent) == ["dispatch.db"]
    assert count(sqlite.url, "SELECT count(*) FROM vehicles") == 1
    assert files(sqlite.path.parent) == ["dispatch.db"]


def test_what_was_read_while_the_system_began_to_write_does_not_count(sqlite: SQLite) -> None:
    sqlite.execute("PRAGMA journal_mode = wal")
    reader = open_reader(parse_url(sqlite.url), 4)
    seen: list[int] = []

    def work(connection: sqlalchemy.Connection) -> int:
        number = int(connection.exec_driver_sql("SELECT count(*) FROM vehicles").scalar_one())
        if not seen:
            sqlite.execute(
                "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) VALUES (1, 1, 1, 1, 1)"
            )
        seen.append(number)
        return number

    assert reader.read(work, 4) == 1
    assert seen == [0, 1]  # the first did not count


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("open_by_system", [True, False])
def test_a_wal_database_in_a_folder_that_we_may_not_write_is_read(others_folder: Path, open_by_system: bool) -> None:
    database = SQLite(others_folder / "dispatch.db")
    system = sqlite3.connect(database.path)
    system.execute("PRAGMA journal_mode = wal")
    system.execute("INSERT INTO orders (order_number, order_date, temperature_zone, status) VALUES (1, 1, 1, 1)")
    system.commit()
    if not open_by_system:
        system.close()
    program = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent.parent.parent)!r})
        from exporter.databases import open_reader, parse_url
        reader = open_reader(parse_url({database.url!r}), 4)
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        print(reader.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM orders").scalar(), 4))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True, text=True)
    system.close()
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_wal_left_by_a_crash_says_what_it_needs(sqlite: SQLite) -> None:
    with contextlib.closing(sqlite3.connect(sqlite.path)) as system:
        system.execute("PRAGMA journal_mode = wal")
        system.execute("INSERT INTO orders (order_number, order_date, temperature_zone, status) VALUES (1, 1, 1, 1)")
        system.commit()
        crashed = sqlite.path.with_name("crashed.db")
        crashed.write_bytes(sqlite.path.read_bytes())
        crashed.with_name("crashed.db-wal").write_bytes(sqlite.path.with_name("dispatch.db-wal").read_bytes())
    with pytest.raises(DatabaseError) as caught:
        count(f"sqlite:///{crashed}")
    assert caught.value.failure is Failure.UNREACHABLE
    assert "the system itself has to open it once" in caught.value.hint
