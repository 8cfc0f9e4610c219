"""What `check-config` finds beyond the settings themselves: paths, and queries that the database refuses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from exporter.databases import DatabaseError, Failure
from exporter.settings import ExporterSettings
from exporter.sources import Plan
from serving import door

__all__ = ["offline", "with_database"]


def offline(options: argparse.Namespace, settings: ExporterSettings) -> Iterator[str]:
    """What needs no database to be found wrong, one line a problem."""
    yield from door.problems(options)
    if settings.sources.host.enabled:
        if not (Path(settings.path.procfs) / "stat").is_file():
            yield f"path.procfs: {settings.path.procfs} is no procfs: mount the host's /proc there, or leave it out"
        if not Path(settings.path.rootfs).is_dir():
            yield f"path.rootfs: {settings.path.rootfs} is no folder: mount the host's / there, or leave it out"
    if settings.queries and settings.database_url is None:
        yield "queries: there is no database to ask: set DATABASE_URL, or leave them out"


def with_database(plans: Sequence[Plan], now: datetime) -> Iterator[str]:
    """What the database says of each source's query, which it explains and does not run; one line a problem."""
    for plan in plans:
        source = plan.make()
        try:
            source.check(now, plan.timeout)
        except DatabaseError as error:
            yield f"{plan.name}: {error}{f' ({error.hint})' if error.hint else ''}"
            if error.failure is Failure.UNREACHABLE:  # so it is for the others
                return
        finally:
            source.close()
