"""What /metrics shows of a snapshot: all of it while fresh, nothing old as today's, and always how the sources are."""

from __future__ import annotations

import gzip
import math
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.families import Family
from exporter.metrics import Exposition, Page, accepts_gzip, families, process_families, valid_until
from exporter.settings import DiskSettings, ExporterSettings, PathSettings
from exporter.snapshot import Board, Snapshot, SourceState
from exporter.sources import plans
from exporter.sources.database import DatabaseSource
from exporter.sources.host import HostSource
from exporter.sources.mounts import Space
from tests.databases import SQLite
from tests.exporter.awkward import NOW, Site, fill
from tests.exporter.test_exact import SQLITE_COMPARE, SQLITE_SECONDS, UTC_ZONE
from tests.programs import program

FOLDER = Path(__file__).parent


def state(name: str, **changes: object) -> SourceState:
    """A source that found one figure at 100, which is good until 175."""
    found = SourceState(
        name,
        interval=15,
        timeout=5,
        families=(Family(f"coldchain_{name}_figure", "A figure.", samples={(): 1}),),
        succeeded_at=NOW,
        fresh_until=175,
        duration=0.25,
    )
    return replace(found, **changes)  # type: ignore[arg-type] # the fields' own types


def snapshot(*states: SourceState) -> Snapshot:
    return Snapshot(MappingProxyType({found.name: found for found in states}))


def shown(at: float, *states: SourceState) -> dict[str, dict[tuple[str, ...], float]]:
    """Families by name, with their samples, at a moment."""
    return {family.name: dict(family.samples) for family in families(snapshot(*states), "1.2.3", at)}


def test_a_fresh_source_shows_what_it_last_found_even_while_it_fails() -> None:
    found = shown(174.9, state("orders", error="table missing"))
    assert found["coldchain_orders_figure"] == {(): 1}
    assert found["coldchain_source_up"] == {("orders",): 0}
    assert found["coldchain_source_last_success_timestamp_seconds"] == {("orders",): NOW.timestamp()}


def test_a_stale_source_shows_nothing_but_that_it_is() -> None:
    found = shown(175, state("orders", error="table missing"), state("vehicles", fresh_until=190))
    assert "coldchain_orders_figure" not in found
    assert found["coldchain_vehicles_figure"] == {(): 1}
    assert found["coldchain_source_up"] == {("orders",): 0, ("vehicles",): 1}
    assert found["coldchain_source_duration_seconds"] == {("orders",): 0.25, ("vehicles",): 0.25}
    assert found["coldchain_source_interval_seconds"] == {("orders",): 15, ("vehicles",): 15}


def test_a_look_that_hangs_has_failed_as_soon_as_its_timeout_is_over() -> None:
    hanging = state("orders", running_since=110)
    assert shown(114.9, hanging)["coldchain_source_up"] == {("orders",): 1}
    assert shown(115, hanging)["coldchain_source_up"] == {("orders",): 0}


def test_a_source_that_was_never_looked_at_says_neither_up_nor_down() -> None:
    new = SourceState("orders", 15, 5, running_since=100)
    assert shown(101, new)["coldchain_source_up"] == {}
    assert shown(105, new)["coldchain_source_up"] == {("orders",): 0}


@pytest.mark.parametrize(
    ("changes", "up"), [({}, 1), ({"error": "refused"}, 0), ({"running_since": 110}, 0), ({"fresh_until": 0}, 1)]
)
def test_the_database_is_up_while_its_last_probe_succeeded(changes: dict[str, object], up: float) -> None:
    found = shown(120, state("database", **changes))
    assert found["coldchain_database_up"] == {(): up}


def test_a_database_that_is_down_shows_no_response_time() -> None:
    assert "coldchain_database_figure" in shown(120, state("database"))
    assert "coldchain_database_figure" not in shown(120, state("database", error="refused"))


def test_without_a_database_nothing_is_said_of_it() -> None:
    assert "coldchain_database_up" not in shown(120, state("host"))


def test_limits_are_shown_whatever_the_sources_do() -> None:
    assert shown(0)["coldchain_alert_threshold"]["ColdChainOrdersWaiting", "warning"] == 10


@pytest.mark.parametrize(("at", "until"), [(100, 115), (115, 130), (130, 175), (175, 190), (190, math.inf)])
def test_a_page_is_good_until_something_grows_stale_or_overdue(at: float, until: float) -> None:
    states = (
        state("orders", running_since=110),
        state("vehicles", running_since=125, fresh_until=190),
        state("host"),
    )
    assert valid_until(snapshot(*states), at) == until


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_page_is_made_once_for_each_snapshot_and_format() -> None:
    clock = Clock(100)
    board = Board(snapshot(state("orders")))
    exposition = Exposition(board, "1.2.3", clock)
    first = exposition.page("")
    clock.now = 174
    assert exposition.page("") is first
    openmetrics = exposition.page("application/openmetrics-text; version=1.0.0")
    assert openmetrics is exposition.page("application/openmetrics-text; version=1.0.0")
    assert exposition.page("") is first
    board.change_state("orders", lambda found: replace(found, duration=0.5))
    assert exposition.page("") is not first


def test_a_page_is_made_again_when_time_alone_has_changed_it() -> None:
    clock = Clock(100)
    exposition = Exposition(Board(snapshot(state("orders"))), "1.2.3", clock)
    assert b"\ncoldchain_orders_figure 1.0\n" in exposition.page("").plain
    clock.now = 175
    assert b"coldchain_orders_figure" not in exposition.page("").plain


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        ("application/openmetrics-text; version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, content_type: str) -> None:
    page = Exposition(Board(snapshot(state("orders"))), "1.2.3", Clock(100)).page(accept)
    assert dict(page.plain_headers)[b"content-type"].decode() == content_type
    assert page.plain.endswith(b"# EOF\n") == content_type.startswith("application/openmetrics-text")
    assert gzip.decompress(page.compressed) == page.plain
    assert dict(page.compressed_headers)[b"content-length"] == str(len(page.compressed)).encode()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True), ("gzip, deflate", True), ("br, GZIP;q=0.5", True), ("*", True), ("gzip;q=1.0", True),
        ("", False), ("identity", False), ("gzip;q=0", False), ("gzip; q=0.000", False), ("x-gzipped", False),
    ],
)  # fmt: skip
def test_gzip_is_used_where_it_is_accepted(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_the_process_itself_is_shown_as_every_client_library_shows_it() -> None:
    found = {family.name: family for family in process_families()()}
    assert set(found) == {
        "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
        "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
    }  # fmt: skip
    assert found["process_cpu_seconds_total"].type == "counter"
    assert (found["process_resident_memory_bytes"].value() or 0) > 1_000_000


@pytest.fixture
def scrape(sqlite: SQLite) -> Iterator[Page]:
    """A page of everything: the fake host, and the awkward rows at a fixed moment."""
    yield from pages(sqlite, "")


@pytest.fixture
def openmetrics(sqlite: SQLite) -> Iterator[Page]:
    """The same as OpenMetrics."""
    yield from pages(sqlite, PROMETHEUS_2)


def pages(sqlite: SQLite, accept: str) -> Iterator[Page]:
    fill(Site(sqlite.url, sqlite.execute, UTC_ZONE, SQLITE_SECONDS, SQLITE_COMPARE), NOW)
    settings = ExporterSettings.model_validate({"database_url": sqlite.url})
    ticks = iter([1.0, 1.0, 1.0078125])
    host = HostSource(
        PathSettings(procfs=str(FOLDER / "procfs")),
        DiskSettings(),
        measure=lambda path: Space(1000 * len(path), 600 * len(path), 300 * len(path)),
    )
    host._readings.append((0, 0, 0))  # a first reading, so that there is a usage
    states = []
    for plan in plans(settings):
        source = host if plan.name == "host" else plan.make()
        if isinstance(source, DatabaseSource):
            source._timer = lambda: next(ticks)
        found = source.collect(NOW, 5)
        states.append(state(plan.name, families=found, interval=plan.interval))
        source.close()
    psutil.PROCFS_PATH = "/proc"
    process = (
        Family(
            "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", (), {(): 1.5}, "counter"
        ),
    )
    board = Board(replace(snapshot(*states), process=process))
    yield Exposition(board, "1.2.3", Clock(100)).page(accept)


@pytest.mark.parametrize("name", ["scrape", "openmetrics"])
def test_golden_scrape(name: str, request: pytest.FixtureRequest, golden: Callable[[Path, str], None]) -> None:
    page: Page = request.getfixturevalue(name)
    text = page.plain.decode().replace(f'python="{platform.python_version()}"', 'python="3"')
    golden(FOLDER / "golden" / f"{name}.txt", text)


def test_promtool_finds_nothing_to_say_of_a_scrape(scrape: Page) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], check=False, input=scrape.plain, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_both_formats_say_the_same(scrape: Page, openmetrics: Page) -> None:
    text = {sample for family in parse_text(scrape.plain.decode()) for sample in map(key, family.samples)}
    strict = parse_openmetrics(openmetrics.plain.decode())  # type: ignore[no-untyped-call] # of prometheus_client
    assert {sample for family in strict for sample in map(key, family.samples)} == text
    assert len(text) >= 60


def key(sample: object) -> tuple[str, tuple[tuple[str, str], ...], float]:
    """A sample as something that compares."""
    name, labels, value = sample[:3]  # type: ignore[index] # a named tuple of prometheus_client's
    return name, tuple(sorted(labels.items())), value


def test_names_are_the_contracts_and_no_others(scrape: Page) -> None:
    names = set(re.findall(r"^# TYPE (\S+)", scrape.plain.decode(), re.MULTILINE))
    wanted = set((FOLDER / "golden" / "names.txt").read_text().split())
    assert names - {"process_cpu_seconds_total"} == wanted
