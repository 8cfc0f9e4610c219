"""The database under the outbox: opened when it can be, migrated first, one transaction a piece of work."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError

from receiver.tables import REVISION

__all__ = ["Condition", "Store", "StoreUnavailableError", "read_url"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

# Below the 10 s that Alertmanager waits for an answer at least, so that it gets a 503 rather than silence.
_LOCK_SECONDS = 3
_STATEMENT_SECONDS = 5
_MOST_TOGETHER = 100
_OF_ONE_ROW = (DataError, IntegrityError)
_DEADLOCK = "40P01"  # deadlock_detected (PostgreSQL's error codes): undone so that another transaction could go on
_MOST_WAITING = 10_000  # where the database does not answer
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
    except ValueError:
        # its words would repeat a part of the URL, perhaps of the password
        raise ValueError("is the port a number, and is each of @ : / ? # % in the password percent-encoded?") from None
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("the port is a number from 1 to 65535")
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ValueError(f"{url.drivername} is not supported: use sqlite:/// or postgresql://")
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("nothing would survive a restart: name a file, such as sqlite:///receiver.db")
    return url


@dataclass(frozen=True)
class Condition:
    """A database as it was found."""

    revision: str | None
    """The version of its tables; None: there are none yet."""
    readable: bool
    """False where a newer version of this program has made them."""
    clock: datetime | None = None
    """What time it is there, if it is another machine."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[Connection, Sequence[Any]], Sequence[Any]]
    """Gives each item its answer, in their order."""
    item: Any
    result: Future[Any]


class Store:
    """Reads and writes by any number of threads; each raises StoreUnavailableError where the database is to blame.

    Each commit waits for the disk, and SQLite lets one writer in at a time. So one thread writes for all: what waits
    goes into one transaction, and each piece of work has its answer after the common commit. On PostgreSQL it does so
    for what comes in numbers alone.
    """

    def __init__(self, url: URL, *, patience: int = _LOCK_SECONDS) -> None:
        """`patience` is how many seconds it waits for a lock that another process holds."""
        self._file = Path(url.database or "") if url.drivername == "sqlite" else None
        self._engine = _sqlite(url, patience) if self._file is not None else _postgresql(url, patience)
        self._opening = threading.Lock()
        self._opened_file: tuple[int, int] | None = None
        self._opened = False
        self.took_last_write = True
        """False from a write that failed to the next that does not."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_for_all, name="store", daemon=True)

    def start(self) -> None:
        """Starts the writer; opens nothing yet."""
        self._writer.start()

    def close(self) -> None:
        """Ends the writer after what waits."""
        if self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
        self._engine.dispose()

    def inspect(self) -> Condition:
        """Tries whether one may write; migrates nothing and makes no file. Raises StoreUnavailableError."""
        if self._file is not None and not self._file.exists():
            if os.access(self._file.parent, os.W_OK | os.X_OK):
                return Condition(None, readable=True)
            raise StoreUnavailableError(f"{self._file} is not there and cannot be made")
        try:
            with _transaction(self._engine, writes=True) as connection:
                revision = _revision(connection)
                writes = "UPDATE alembic_version SET version_num = version_num" if revision == REVISION else _NEW_TABLE
                connection.execute(text(writes))
                clock = connection.execute(text("SELECT now()")).scalar() if self._file is None else None
                connection.rollback()
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from None
        return Condition(revision, _is_readable(revision), clock)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a transaction that it does not write in."""
        try:
            self._open()
            with _transaction(self._engine) as connection:
                return work(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from None

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a transaction and returns after its commit. It may be run again where the first was undone."""
        if self._file is not None:
            return self._put(lambda connection, _: [work(connection)], None).result()
        try:
            self._open()
            with _transaction(self._engine, writes=True) as connection:
                answer = work(connection)
        except (SQLAlchemyError, OSError) as error:
            self.took_last_write = isinstance(error, _OF_ONE_ROW)
            raise self._unavailable(error) from None
        self.took_last_write = True
        return answer

    def write_together(self, work: Callable[[Connection, Sequence[Item]], Sequence[T]], item: Item) -> Future[T]:
        """Runs `work` for the item and for all others that wait for the same work, and has its answer after the commit.

        The answer holds what went wrong, too: StoreUnavailableError, or what `work` raised. `work` gives its answers in
        the items' order, and may be run again, for each item by itself, where one of them was at fault.
        """
        return self._put(work, item)

    def _put(self, work: Callable[[Connection, Sequence[Item]], Sequence[T]], item: Item) -> Future[T]:
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()  # nobody can take it back
        if self._jobs.qsize() >= _MOST_WAITING:
            result.set_exception(StoreUnavailableError("too much waits for the database"))
        else:
            self._jobs.put(_Job(work, item, result))
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
                self._write_jobs(jobs)
            if job is None:
                return

    def _write_jobs(self, jobs: Sequence[_Job]) -> None:
        try:
            answers = self._in_one_transaction(jobs)
        except Exception as error:  # noqa: BLE001 - raised again where the work came from
            fault = self._unavailable(error) if isinstance(error, SQLAlchemyError | OSError) else error
            # A row's fault, not the database's: the others are not to suffer for it.
            of_one = fault is error or isinstance(error, _OF_ONE_ROW)
            self.took_last_write = of_one
            # What is written one by one holds nothing that another receiver's is to wait for.
            if len(jobs) > 1 and (of_one or _is_deadlock(error)):
                for job in jobs:
                    self._write_jobs([job])
                return
            for job in jobs:
                job.result.set_exception(fault)
        else:
            self.took_last_write = True
            for job, answer in zip(jobs, answers, strict=True):
                job.result.set_result(answer)

    def _in_one_transaction(self, jobs: Sequence[_Job]) -> list[Any]:
        together: dict[Callable[..., Any], list[int]] = {}
        for number, job in enumerate(jobs):
            together.setdefault(job.work, []).append(number)
        answers: dict[int, Any] = {}
        self._open()
        with _transaction(self._engine, writes=True) as connection:
            for work, numbers in together.items():
                given = work(connection, [jobs[number].item for number in numbers])
                answers.update(zip(numbers, given, strict=True))
            self._check_file()
        return [answers[number] for number in range(len(jobs))]

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
                if self._file is not None:  # it tells who is told what; what SQLite lays beside it is as closed
                    with contextlib.suppress(OSError):  # SQLite says it better
                        self._file.touch(0o600)
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


def _is_deadlock(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _DEADLOCK


@contextlib.contextmanager
def _transaction(engine: Engine, *, writes: bool = False) -> Iterator[Connection]:
    """Committed where it writes. In SQLite it says so at its beginning, for it could not wait for the lock later."""
    with engine.connect() as connection, connection.begin() as transaction:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        yield connection
        if not writes:
            transaction.rollback()


def _sqlite(url: URL, patience: int) -> Engine:
    # The busy handler's sleep counts, the pool's does not: the writer is one, and readers wait for nobody in WAL.
    # Last in, first out: what a connection has in its cache is of use as long as no other has written.
    engine = create_engine(url, connect_args={"timeout": patience}, pool_size=8, max_overflow=32, pool_use_lifo=True)
    # Many rows in one step, for each step lets go of the interpreter.
    engine.dialect.use_insertmanyvalues_wo_returning = True

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where _transaction says, not where the driver guesses
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # in WAL, NORMAL may lose the last commits at a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


def _postgresql(url: URL, patience: int) -> Engine:
    limits = f"-c statement_timeout={_STATEMENT_SECONDS}s -c lock_timeout={patience}s"
    from receiver.postgresql import bound  # noqa: PLC0415 - psycopg is there only where PostgreSQL is

    engine = create_engine(
        url,
        connect_args={"connect_timeout": _LOCK_SECONDS, "options": limits, "application_name": "coldchain-receiver"},
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=5,
        pool_timeout=_LOCK_SECONDS,
    )
    return bound(engine, _STATEMENT_SECONDS + 1)  # the server ends a statement by itself before


def _migrate(engine: Engine) -> None:
    """Brings the tables to this version's, in one transaction; a second process waits for the first.

    Raises OSError where a newer version of this program has made them.
    """
    with engine.connect() as connection:
        revision = _revision(connection)
    if revision == REVISION:
        return
    if not _is_readable(revision):
        raise OSError(f"its tables are of a newer version (schema {revision}): install that one")
    if engine.dialect.name == "sqlite":
        with _transaction(engine, writes=True) as connection:
            _migrations().upgrade(connection)
        return
    # Without the limit on a statement: an index over years of history takes its time.
    limits = {"connect_timeout": _LOCK_SECONDS, "options": f"-c lock_timeout={_LOCK_SECONDS}s"}
    patient = create_engine(engine.url, poolclass=NullPool, connect_args=limits)
    with patient.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        _migrations().upgrade(connection)


def _revision(connection: Connection) -> str | None:
    """The version of the tables, as alembic notes it; None where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _is_readable(revision: str | None) -> bool:
    """Whether this version of the program knows tables of that version."""
    return revision in (None, REVISION) or revision in _migrations().revisions()


def _migrations() -> ModuleType:
    """Only where it is needed, once a version: alembic takes 8 MB and a tenth of a second."""
    return importlib.import_module("receiver.migrations")
