"""From the snapshot to the bytes that Prometheus reads, made at most once for each snapshot."""

from __future__ import annotations

import functools
import gzip
import math
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from exporter.families import Family
from exporter.limits import threshold_family
from exporter.snapshot import Board, Snapshot, SourceState

__all__ = ["Exposition", "Page", "families", "process_families", "refusal_family", "valid_until"]


def families(snapshot: Snapshot, version: str, now: float) -> Iterator[Family]:
    """Everything that `/metrics` shows at monotonic time `now`; a source that is stale shows only that it is."""
    states = snapshot.states.values()
    for state in states:
        yield from (family for family in state.shown(now) or () if family.exported)
    database = snapshot.states.get("database")
    if database is not None:
        yield Family(
            "coldchain_database_up",
            "Whether the last probe of the database succeeded; a probe tries twice.",
            samples=_of([database], lambda state: state.up(now), ()),
        )
    yield threshold_family(snapshot.thresholds)
    yield Family(
        "coldchain_source_up",
        "Whether the source's last refresh succeeded. Sources are refreshed in the background: a scrape shows what "
        "they last found and never waits for them.",
        ("source",),
        _of(states, lambda state: state.up(now)),
    )
    yield Family(
        "coldchain_source_duration_seconds",
        "How long the source's last refresh took.",
        ("source",),
        _of(states, lambda state: state.duration),
    )
    yield Family(
        "coldchain_source_last_success_timestamp_seconds",
        "When the source's last successful refresh began.",
        ("source",),
        _of(states, lambda state: state.succeeded_at.timestamp() if state.succeeded_at else None),
    )
    yield Family(
        "coldchain_source_interval_seconds",
        "Time between two refreshes, as in force: a slow source is refreshed less often than configured.",
        ("source",),
        _of(states, lambda state: state.interval),
    )
    yield Family(
        "coldchain_config_last_reload_successful",
        "Whether the last reading of the configuration was accepted.",
        samples={(): float(snapshot.reload_successful)},
    )
    yield Family(
        "coldchain_exporter_build_info",
        "The exporter's version.",
        ("version", "python"),
        {(version, platform.python_version()): 1},
    )
    yield from snapshot.process


def _of(
    states: Iterable[SourceState], figure: Callable[[SourceState], float | None], labels: tuple[str, ...] | None = None
) -> dict[tuple[str, ...], float]:
    return {
        labels if labels is not None else (state.name,): float(value)
        for state in states
        if (value := figure(state)) is not None
    }


def valid_until(snapshot: Snapshot, now: float) -> float:
    """The next monotonic moment at which this snapshot shows something else by mere passing of time."""
    moments = [
        moment
        for state in snapshot.states.values()
        for moment in (state.overdue_at, state.fresh_until)
        if moment is not None and moment > now
    ]
    return min(moments, default=math.inf)


def process_families() -> Callable[[], tuple[Family, ...]]:
    """The usual `process_*` of this process, by prometheus_client; a function, for each look at them."""
    collector = ProcessCollector(registry=None)

    def look() -> tuple[Family, ...]:
        return tuple(
            Family(
                metric.name if metric.type != "counter" else f"{metric.name}_total",
                metric.documentation,
                samples={tuple(sample.labels.values()): sample.value for sample in metric.samples},
                type="counter" if metric.type == "counter" else "gauge",
            )
            for metric in collector.collect()
        )

    return look


def refusal_family(count: int) -> Family:
    """How often somebody was refused for want of a credential."""
    return Family(
        "coldchain_authentication_failures_total",
        "Requests refused for want of a right credential.",
        samples={(): count},
        type="counter",
    )


class _Metrics(Collector):
    """Families as prometheus_client's exposition takes them."""

    def __init__(self, found: Iterable[Family]) -> None:
        self._metrics = [_metric(family) for family in found if family.samples]

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metric(family: Family) -> Metric:
    name = family.name.removesuffix("_total") if family.type == "counter" else family.name
    metric = Metric(name, family.help, family.type)
    for values, value in family.samples.items():
        metric.add_sample(family.name, dict(zip(family.labels, values, strict=True)), value)
    return metric


@dataclass(frozen=True)
class Page:
    """An answer in one format, with its headers, plain and compressed."""

    plain: bytes
    plain_headers: list[tuple[bytes, bytes]]
    compressed: bytes
    compressed_headers: list[tuple[bytes, bytes]]


@functools.lru_cache(maxsize=64)
def _choose(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """The format that the Accept header asks for, as prometheus_client understands it; plain text where it does not."""
    try:
        return choose_encoder(accept)
    except TypeError:  # a version that is no number (prometheus_client 0.26)
        return choose_encoder("")


class Exposition:
    """The pages of the present snapshot, by what the reader accepts. For one thread: the event loop's."""

    def __init__(self, board: Board, version: str, monotonic: Callable[[], float]) -> None:
        self._board = board
        self._version = version
        self._monotonic = monotonic
        self._snapshot: Snapshot | None = None
        self._valid_until = -math.inf
        self._pages: dict[str, Page] = {}

    def page(self, accept: str) -> Page:
        """In the format that the Accept header asks for; made anew only when something has changed."""
        now = self._monotonic()
        snapshot = self._board.snapshot
        if snapshot is not self._snapshot or now >= self._valid_until:
            self._snapshot, self._valid_until, self._pages = snapshot, valid_until(snapshot, now), {}
        encode, content_type = _choose(accept)
        page = self._pages.get(content_type)
        if page is None:
            page = self._pages[content_type] = _page(
                encode(_Metrics(families(snapshot, self._version, now))), content_type
            )
        return page


def _page(body: bytes, content_type: str) -> Page:
    compressed = gzip.compress(body, 6, mtime=0)
    common = [(b"content-type", content_type.encode()), (b"vary", b"accept, accept-encoding")]
    return Page(
        body,
        [*common, (b"content-length", str(len(body)).encode())],
        compressed,
        [*common, (b"content-encoding", b"gzip"), (b"content-length", str(len(compressed)).encode())],
    )


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is among the encodings, and not refused by a weight of 0 (RFC 9110, 12.5.3)."""
    return any(
        re.fullmatch(r"\s*(gzip|\*)\s*(;\s*q\s*=\s*(1(\.0*)?|0?\.0*[1-9]\d*)\s*)?", part, re.IGNORECASE)
        for part in accept_encoding.split(",")
    )
