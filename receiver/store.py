"""The database under the outbox: opened when it can be, migrated first, one transaction a piece of work."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

__all__ = ["Condition", "Store", "StoreUnavailableError", "read_url"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Below the 10 s that Alertmanager waits for an answer at least, so that it gets a 503 rather than silence.
_LOCK_SECONDS = 3
_STATEMENT_SECONDS = 5
_MOST_TOGETHER = 100
_NEW_TABLE = "CREATE TABLE coldchain_probe (tried int)"  # what a migration must be allowed to do
_MIGRATION_LOCK = 0x636F6C64  # any number that no other program on the same PostgreSQL takes


class StoreUnavailableError(Exception):
    """The database cannot do it now; the message holds no secret. Trying again later may help."""


def read_url(value: str) -> URL:
    """A database URL with its driver; raises ValueError naming what is understood."""
    try:
        url = make_url(value)
    except ArgumentError:
        raise ValueError("write a URL such as sqlite:///receiver.db or postgresql://user:password@host/name") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ValueError(f"{url.drivername} is not supported: use sqlite:/// or postgresql://")
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("nothing would survive a restart: name a file, such as sqlite:///receiver.db")
    return url


@dataclass(frozen=True)
class Condition:
    """A database as it was found: the version of its tables and of this program's; None: there are none yet."""

    revision: str | None
    newest: str | None
    readable: bool
    """False where a newer version of this program has made them."""
    clock: datetime | None = None
    """What time it is there, if it is another machine."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[Connection], Any]
    result: Future[Any]


class Store:
    """Reads and writes by any number of threads; each raises StoreUnavailableError where the database is to blame.

    SQLite lets one writer in at a time and makes each wait for the disk. So there one thread writes for all: what waits
    goes into one transaction, and each piece of work has its answer after the common commit.
    """

    def __init__(self, url: URL, *, patience: int = _LOCK_SECONDS) -> None:
        """`patience` is how many seconds it waits for a lock that another process holds."""
        self._file = Path(url.database or "") if url.drivername == "sqlite" else None
        self._engine = _sqlite(url, patience) if self._file is not None else _postgresql(url, patience)
        self._opening = threading.Lock()
        self._opened_file: tuple[int, int] | None = None
        self._opened = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_for_all, name="store", daemon=True) if self._file else None

    def start(self) -> None:
        """Starts the writer; opens nothing yet."""
        if self._writer is not None:
            self._writer.start()

    def close(self) -> None:
        """Ends the writer after what waits."""
        if self._writer is not None and self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
        self._engine.dispose()

    def inspect(self) -> Condition:
        """Tries whether one may write; migrates nothing and makes no file. Raises StoreUnavailableError."""
        script = ScriptDirectory.from_config(_alembic())
        newest = script.get_current_head()
        if self._file is not None and not self._file.exists():
            if os.access(self._file.parent, os.W_OK | os.X_OK):
                return Condition(None, newest, readable=True)
            raise StoreUnavailableError(f"{self._file} is not there and cannot be made")
        try:
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin() as tried:
                revision = MigrationContext.configure(connection).get_current_revision()
                writes = "UPDATE alembic_version SET version_num = version_num" if revision == newest else _NEW_TABLE
                connection.execute(text(writes))
                clock = connection.execute(text("SELECT now()")).scalar() if self._file is None else None
                tried.rollback()
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from None
        known = {one.revision for one in script.walk_revisions()}
        return Condition(revision, newest, readable=revision is None or revision in known, clock=clock)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a transaction that it does not write in."""
        try:
            self._open()
            with self._engine.connect() as connection:
                return work(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from None

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a transaction and returns after its commit."""
        if self._writer is None:
            try:
                self._open()
                with self._engine.begin() as connection:
                    return work(connection)
            except (SQLAlchemyError, OSError) as error:
                raise self._unavailable(error) from None
        job = _Job(work, Future())
        self._jobs.put(job)
        result: T = job.result.result()
        return result

    def _write_for_all(self) -> None:
        while True:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MOST_TOGETHER or self._jobs.empty():
                    break
                job = self._jobs.get()
            if jobs:
                self._write_together(jobs)
            if job is None:
                return

    def _write_together(self, jobs: Sequence[_Job]) -> None:
        answers: list[tuple[_Job, Any]] = []
        try:
            self._open()
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                for job in jobs:
                    savepoint = connection.begin_nested()
                    try:
                        answer = job.work(connection)
                        savepoint.commit()
                        answers.append((job, answer))
                    except (DataError, IntegrityError) as error:  # this row's fault, not the database's
                        savepoint.rollback()
                        job.result.set_exception(self._unavailable(error))
                    except SQLAlchemyError:
                        raise
                    except Exception as error:  # noqa: BLE001 - raised again where the work came from
                        savepoint.rollback()
                        job.result.set_exception(error)
                self._check_file()
        except (SQLAlchemyError, OSError) as error:
            unavailable = self._unavailable(error)
            for job in jobs:
                if not job.result.done():
                    job.result.set_exception(unavailable)
            return
        for job, answer in answers:
            job.result.set_result(answer)

    def _open(self) -> None:
        """Migrates once; again where SQLite's file was replaced or removed, which SQLite itself does not notice."""
        if self._opened and not self._is_replaced():
            return
        with self._opening:
            if self._opened and self._is_replaced():
                log.error("the database's file is gone, opening it anew", file=str(self._file))
                self._engine.dispose()
                self._opened = False
            if not self._opened:
                _migrate(self._engine)
                self._opened_file = self._identity()
                self._opened = True

    def _check_file(self) -> None:
        if self._is_replaced():
            raise OSError("the database's file is gone")

    def _is_replaced(self) -> bool:
        return self._file is not None and self._identity() != self._opened_file

    def _identity(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _unavailable(self, error: SQLAlchemyError | OSError) -> StoreUnavailableError:
        """The driver's own words: neither SQLAlchemy's, which repeat the row, nor a connection's password."""
        words = str(getattr(error, "orig", None) or error).strip().splitlines()
        return StoreUnavailableError(words[0] if words else type(error).__name__)


def _sqlite(url: URL, patience: int) -> Engine:
    # The busy handler's sleep counts, the pool's does not: the writer is one, and readers wait for nobody in WAL.
    engine = create_engine(url, connect_args={"timeout": patience}, pool_size=8, max_overflow=32)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where _begin says, not where the driver guesses
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # in WAL, NORMAL may lose the last commits at a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def _postgresql(url: URL, patience: int) -> Engine:
    limits = f"-c statement_timeout={_STATEMENT_SECONDS}s -c lock_timeout={patience}s"
    return create_engine(
        url,
        connect_args={"connect_timeout": _LOCK_SECONDS, "options": limits, "application_name": "coldchain-receiver"},
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=_LOCK_SECONDS,
    )


def _migrate(engine: Engine) -> None:
    """Brings the tables to this version's, in one transaction; a second process waits for the first."""
    config = _alembic()
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
