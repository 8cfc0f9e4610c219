"""The page for people: the sources at one time, as a table."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime

import jinja2

from exporter.snapshot import Snapshot

__all__ = ["render"]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    up: bool | None
    age: float | None
    interval: float
    duration: float | None
    fresh: bool
    error: str | None
    hint: str


def render(snapshot: Snapshot, version: str, now: float, clock: datetime) -> str:
    """The page at monotonic time `now`, which is `clock`, as HTML."""
    return _template().render(
        version=version,
        rows=rows(snapshot, now, clock),
        reload_successful=snapshot.reload_successful,
        has_database=any(name != "host" for name in snapshot.states),
    )


def rows(snapshot: Snapshot, now: float, clock: datetime) -> list[Row]:
    """The sources as people read them."""
    return [
        Row(
            state.name,
            state.up(now),
            (clock - state.succeeded_at).total_seconds() if state.succeeded_at else None,
            state.interval,
            state.duration,
            state.fresh(now),
            *(state.failure(now) or (None, "")),
        )
        for state in snapshot.states.values()
    ]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("exporter"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("index.html")
