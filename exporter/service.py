"""The guide's functions for Python: the same documents, from the database session that the caller gives."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy.exc

from exporter import monitoring
from exporter.databases import DatabaseError, Failure, dialect_for
from exporter.databases.base import one_line
from exporter.databases.borrowed import Borrowed, unusable
from exporter.documents import AlertDocument, Health, Metrics
from exporter.families import Family
from exporter.openapi import LONGEST_PERIOD_HOURS
from exporter.settings import DiskSettings, ExporterSettings, PathSettings, SourceSettings
from exporter.snapshot import Snapshot, SourceState
from exporter.sources.database import DatabaseSource
from exporter.sources.host import HostSource
from exporter.sources.plan import tables
from exporter.sources.table import TableSource

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

__all__ = ["MonitoringService"]

HOST_SECONDS = 5.0
"""How long the host's figures are good for: processor time is counted in ticks, and a share of few of them is noise."""

DAY = timedelta(hours=24)

Look = Callable[[datetime, float], tuple[Family, ...]]


class MonitoringService:
    """Health, metrics and alerts as of now, queried on the caller's session: PostgreSQL, MariaDB, MySQL or SQLite.

    Nothing is committed and nothing rolled back but to a savepoint of its own; each query is bounded in time on the
    server. Processor usage is that since an earlier call in this process, 5 seconds old at least, and null until then.
    """

    settings: ClassVar[ExporterSettings] = ExporterSettings()
    """Time zones, limits, time-outs, the disk. For others: a class of your own that derives from this one."""

    @classmethod
    def get_system_health(cls, db: Session | scoped_session[Session]) -> Health:
        """`GET health`. A database that does not answer makes it unhealthy, and raises nothing."""
        return monitoring.health(*cls._look(db, DAY))

    @classmethod
    def get_metrics(cls, db: Session | scoped_session[Session], period_hours: int = 24) -> Metrics:
        """`GET metrics` over 1 to 168 whole hours; ValueError for any other period."""
        whole = isinstance(period_hours, int) and not isinstance(period_hours, bool)  # who calls may know no types
        if not whole or not 1 <= period_hours <= LONGEST_PERIOD_HOURS:
            raise ValueError(f"period_hours: must be a whole number from 1 to {LONGEST_PERIOD_HOURS}")
        snapshot, now, moment = cls._look(db, timedelta(hours=period_hours))
        return monitoring.metrics(snapshot, period_hours, monitoring.present(snapshot, now), now, moment)

    @classmethod
    def get_alerts(cls, db: Session | scoped_session[Session]) -> list[AlertDocument]:
        """`GET alerts`, the list of them, the gravest first."""
        return monitoring.alerts(*cls._look(db, DAY))["alerts"]

    @classmethod
    def _look(cls, db: Session | scoped_session[Session], window: timedelta) -> tuple[Snapshot, float, datetime]:
        """A snapshot made on the spot, the monotonic time that it holds for, and its time of day."""
        settings, moment = cls.settings, datetime.now(UTC)
        states = _database(db, settings, window, moment)
        if settings.sources.host.enabled:
            host = _host(settings.path, settings.disk)
            states["host"] = _state("host", host.collect, settings, moment)
        return Snapshot(MappingProxyType(states), settings), time.monotonic(), moment


def _database(
    db: Session | scoped_session[Session], settings: ExporterSettings, window: timedelta, moment: datetime
) -> dict[str, SourceState]:
    """The sources that are switched on."""
    names = [
        name for name in ("database", "orders", "dispatches", "vehicles") if getattr(settings.sources, name).enabled
    ]
    try:
        reader = _borrow(db)
    except DatabaseError as error:
        return {name: _failed(name, error, moment) for name in names}
    looks: dict[str, Look] = {"database": DatabaseSource(reader).collect}
    for table in tables(settings):
        looks[table.name] = TableSource(table, reader, (window,), settings.database_timezone).collect
    states: dict[str, SourceState] = {}
    for name in names:
        gone = states.get("database")
        if gone is not None and gone.error is not None:  # the others would find the same
            states[name] = replace(gone, name=name)
        else:
            states[name] = _state(name, looks[name], settings, moment)
    return states


def _borrow(db: Session | scoped_session[Session]) -> Borrowed:
    """The session's connection; raises DatabaseError where there is none, or none that can be used."""
    try:
        return Borrowed(db.connection())
    except sqlalchemy.exc.PendingRollbackError:
        raise unusable() from None
    except sqlalchemy.exc.DBAPIError as error:
        bind = db.get_bind()
        told = dialect_for(bind.dialect.name).explain(error)
        raise DatabaseError(str(told), Failure.UNREACHABLE, told.hint) from None
    except sqlalchemy.exc.TimeoutError as error:
        raise DatabaseError(
            one_line(error), Failure.UNREACHABLE, "the pool of the session's engine is used up"
        ) from None


def _state(name: str, look: Look, settings: ExporterSettings, moment: datetime) -> SourceState:
    """What a source finds now, or why it finds nothing."""
    own: SourceSettings = getattr(settings.sources, name)
    started = time.monotonic()
    try:
        families = look(moment, (own.timeout or settings.default_timeout).total_seconds())
    except (DatabaseError, OSError) as error:
        return _failed(name, error, moment, time.monotonic() - started)
    return SourceState(
        name,
        interval=0.0,
        timeout=math.inf,
        families=families,
        succeeded_at=moment,
        fresh_until=math.inf,
        looked_at=moment,
        duration=time.monotonic() - started,
    )


def _failed(name: str, error: Exception, moment: datetime, duration: float = 0.0) -> SourceState:
    hint = error.hint if isinstance(error, DatabaseError) else ""
    # a session that cannot be used tells nothing of the database: it counts as not looked at
    looked = not (isinstance(error, DatabaseError) and error.failure is Failure.REFUSED and name == "database")
    return SourceState(
        name,
        interval=0.0,
        timeout=math.inf,
        looked_at=moment,
        duration=duration if looked else None,
        error=str(error),
        hint=hint,
    )


class _Host:
    """Remembers processor times from call to call, so that their usage needs no sleep."""

    def __init__(self, paths: PathSettings, disk: DiskSettings) -> None:
        self._source = HostSource(paths, disk)
        self._lock = threading.Lock()
        self._families: tuple[Family, ...] = ()
        self._good_until = -math.inf

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:
        """The host's gauges; raises OSError without a procfs."""
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._families = self._source.collect(now, timeout)
                self._good_until = time.monotonic() + HOST_SECONDS
            return self._families


_host = functools.lru_cache(maxsize=8)(_Host)
