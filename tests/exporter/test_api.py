"""The JSON API over HTTP: what is answered, with which headers, to whom, and how wrong requests are refused."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import bcrypt
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.types import ASGIApp

from exporter import documents
from exporter.api import Cors
from exporter.app import create_app
from exporter.collector import Collector
from exporter.openapi import description
from exporter.snapshot import Board, Snapshot, SourceState
from serving.reload import Reload
from tests.databases import PostgreSQL, SQLite
from tests.exporter.awkward import Site, fill
from tests.exporter.running import QUICK, Exporter, ends_with, running
from tests.exporter.snapshots import MOMENT, NOW, STATES, failing, snapshot, stale
from tests.exporter.test_exact import SQLITE_SECONDS
from tests.waiting import until

PREFIX = "/api/v1/monitoring"
DOCUMENTS: dict[str, Any] = {
    "health": documents.Health,
    "metrics": documents.Metrics,
    "alerts": documents.Alerts,
    "dashboard": documents.Dashboard,
}
ORIGIN = "http://localhost:3000"


class Served:
    """The application over a board, at a monotonic time that a test sets."""

    def __init__(self, of: Snapshot | None = None, *origins: str) -> None:
        self.now = NOW
        self.board = Board(of or snapshot())
        app: ASGIApp = create_app(
            self.board,
            Collector(self.board, 5),
            version="1.2.3",
            reload=Reload(lambda: None),
            start=lambda: None,
            monotonic=lambda: self.now,
        )
        self.origins = origins
        self._app = Cors(app, lambda: self.origins)

    def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        """The answer; headers are given with underscores."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, path, headers=named)

        return asyncio.run(ask())

    def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer to a GET below the prefix."""
        return self.ask("GET", f"{PREFIX}/{path}", **headers)


def fits(kind: Any, body: bytes) -> bool:
    """Whether the body is such a document, every field documented and of its type."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    found: Any = adapter.validate_json(body, strict=True)
    return bool(found == json.loads(body))  # what is not documented is left out of `found`


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_route_answers_with_its_document_as_plain_json(name: str) -> None:
    answer = Served().get(name)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert fits(DOCUMENTS[name], answer.content)
    assert b"\\u" not in answer.content  # Korean is readable in a terminal


def test_the_default_period_is_a_day() -> None:
    served = Served()
    assert served.get("metrics").json()["period_hours"] == 24
    assert served.get("metrics").content == served.get("metrics?period_hours=24").content
    assert served.get("metrics?period_hours=168").json()["orders"]["by_status"] == {"배차대기": 500}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_answer_is_known_by_its_etag_until_something_changes(name: str) -> None:
    served = Served()
    first = served.get(name)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    assert first.headers["cache-control"] == "private, no-cache"
    again = served.get(name, If_None_Match=etag)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["cache-control"] == "private, no-cache"
    # a look that begins changes the snapshot, but nothing that it says
    served.board.change_state("orders", lambda state: replace(state, running_since=NOW))
    assert served.get(name, If_None_Match=etag).status_code == 304
    later = MOMENT.replace(minute=1)
    served.board.change_state("vehicles", lambda _: replace(failing(stale(STATES["vehicles"])), looked_at=later))
    changed = served.get(name, If_None_Match=etag)
    # (no alert tells of the change, and alerts without any have no timestamp)
    assert changed.status_code == (304 if name == "alerts" else 200)
    assert (changed.headers["etag"] == etag) == (name == "alerts")


@pytest.mark.parametrize(
    ("if_none_match", "status"),
    [
        ("*", 304),
        ("{etag}", 304),
        ("W/{etag}", 304),  # what a proxy that compresses makes of it
        ('"other", {etag}', 304),
        ('"other"', 200),
        ("", 200),
        ("nonsense", 200),
    ],
)
def test_if_none_match_is_read_as_http_has_it(if_none_match: str, status: int) -> None:
    served = Served()
    etag = served.get("dashboard").headers["etag"]
    assert served.get("dashboard", If_None_Match=if_none_match.format(etag=etag)).status_code == status


def test_what_becomes_stale_shows_without_a_new_snapshot() -> None:
    served = Served()
    assert served.get("health").json()["status"] == "healthy"
    served.now = 174.9
    assert served.get("health").json()["status"] == "healthy"
    served.now = 175.0
    assert served.get("health").json()["status"] == "degraded"
    assert served.get("metrics").json()["orders"] is None


def test_head_has_the_headers_of_get() -> None:
    served = Served()
    head, get = served.ask("HEAD", f"{PREFIX}/health"), served.get("health")
    assert (head.status_code, dict(head.headers)) == (200, dict(get.headers))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["0", "169", "-1", "1.5", "24h", "", "%20", "٢٤", "1e2", "0x10", "99999999999999999999"]
)
def test_a_wrong_period_is_refused_by_name(value: str) -> None:
    answer = Served().get(f"metrics?period_hours={value}")
    assert answer.status_code == 422
    assert answer.json() == {"detail": "period_hours: must be a whole number from 1 to 168"}


def test_a_period_given_twice_is_refused() -> None:
    answer = Served().get("metrics?period_hours=1&period_hours=2")
    assert (answer.status_code, answer.json()) == (422, {"detail": "period_hours: given twice"})


@pytest.mark.parametrize("path", ["nothing", "health/", "notify", ""])
def test_what_is_not_there_is_told_in_json(path: str) -> None:
    answer = Served().get(path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("name", [*DOCUMENTS, "openapi.json"])
def test_other_methods_are_refused_in_json(method: str, name: str) -> None:
    answer = Served().ask(method, f"{PREFIX}/{name}")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_metrics_refuse_other_methods_as_every_door_does() -> None:
    answer = Served().ask("POST", "/metrics")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    assert answer.headers["allow"] == "GET, HEAD"


# -- what holds for every request and every state ----------------------------------------------------------------------


@settings(deadline=None)  # nothing here is about time
@given(value=st.one_of(st.integers(-10, 300).map(str), st.text(max_size=8), st.floats().map(str)))
def test_a_period_gives_its_document_or_a_refusal(value: str) -> None:
    answer = Served().get(f"metrics?{httpx.QueryParams({'period_hours': value})}")
    allowed = re.fullmatch("0*[0-9]{1,3}", value) is not None and value.isascii() and 1 <= int(value) <= 168
    assert answer.status_code == (200 if allowed else 422)
    assert fits(documents.Metrics if allowed else documents.Problem, answer.content)
    assert not allowed or answer.json()["period_hours"] == int(value)


def states(name: str) -> st.SearchStrategy[SourceState | None]:
    """A source as it may be: off, not looked at, fine, failing, stale, hanging; with some of its figures or all."""
    of = STATES[name]
    figures = st.floats(min_value=0, max_value=1e15, allow_nan=False)

    @st.composite
    def some(draw: st.DrawFn) -> SourceState:
        found = []
        for family in of.families:
            samples = {labels: draw(figures) for labels in family.samples if draw(st.integers(0, 9))}
            found.append(replace(family, samples=samples))
        return replace(of, families=tuple(found))

    return st.one_of(
        st.none(),
        st.just(SourceState(name, 15, 5)),
        some(),
        some().map(failing),
        some().map(stale),
        some().map(lambda state: replace(state, running_since=NOW - 10)),
    )


@settings(deadline=None)
@given(st.fixed_dictionaries({name: states(name) for name in STATES}))
def test_documents_are_as_described_whatever_the_sources_say(found: dict[str, SourceState | None]) -> None:
    present = {name: state for name, state in found.items() if state is not None}
    served = Served(Snapshot(MappingProxyType(present)))
    bodies = {name: served.get(name) for name in DOCUMENTS}
    assert {answer.status_code for answer in bodies.values()} == {200}
    assert [name for name, answer in bodies.items() if not fits(DOCUMENTS[name], answer.content)] == []
    health, dashboard, alerts = (bodies[name].json() for name in ("health", "dashboard", "alerts"))
    assert dashboard["health"]["status"] == health["status"]
    assert dashboard["alerts"]["total"] == sum(dashboard["alerts"]["by_level"].values()) == alerts["total"]
    assert dashboard["alerts"]["recent"] == alerts["alerts"][:5]
    assert ("unhealthy" in dashboard["health"].values()) == (dashboard["alerts"]["by_level"]["critical"] > 0)


# -- the description ---------------------------------------------------------------------------------------------------


def test_the_description_is_served_and_names_every_route() -> None:
    answer = Served().get("openapi.json")
    assert answer.status_code == 200
    assert answer.json() == description("1.2.3")
    assert (answer.json()["openapi"], answer.json()["info"]["version"]) == ("3.1.0", "1.2.3")
    assert set(answer.json()["paths"]) == {f"{PREFIX}/{name}" for name in DOCUMENTS}


def test_the_description_refers_to_nothing_that_it_lacks() -> None:
    document = description("1")

    def look_up(reference: str) -> Any:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found

    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert len(references) > 20
    assert all(look_up(reference) is not None for reference in references)


# -- other origins -----------------------------------------------------------------------------------------------------


def test_pages_of_other_origins_read_nothing_unless_they_are_configured() -> None:
    served = Served()
    assert "access-control-allow-origin" not in served.get("dashboard", Origin=ORIGIN).headers
    preflight = {"Origin": ORIGIN, "Access_Control_Request_Method": "GET"}
    assert served.ask("OPTIONS", f"{PREFIX}/dashboard", **preflight).status_code == 405
    served.origins = (ORIGIN,)
    answer = served.get("dashboard", Origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-expose-headers"] == "ETag"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in served.get("dashboard", Origin="http://elsewhere:3000").headers
    allowed = served.ask(
        "OPTIONS", f"{PREFIX}/dashboard", Access_Control_Request_Headers="authorization,if-none-match", **preflight
    )
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert allowed.headers["access-control-allow-methods"] == "GET, HEAD"
    assert "access-control-allow-credentials" not in allowed.headers


def test_refusals_and_304_may_be_read_by_those_pages_as_well() -> None:
    served = Served(None, ORIGIN)
    answers = {
        422: served.get("metrics?period_hours=0", Origin=ORIGIN),
        404: served.get("nothing", Origin=ORIGIN),
        304: served.get("health", Origin=ORIGIN, If_None_Match="*"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy"])
def test_those_pages_read_the_json_api_alone(path: str) -> None:
    answer = Served(None, ORIGIN).ask("GET", path, Origin=ORIGIN)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "null", "localhost:3000", "http://localhost:3000/", "https://Ops.example.com", "https://a b"]
)
def test_what_is_no_origin_is_refused_with_its_line(tmp_path: Path, origin: str) -> None:
    (tmp_path / "f.yaml").write_text(f"timezone: UTC\ncors_origins:\n  - '{origin}'\n")
    code, _, errors = ends_with(tmp_path, "--config.file=f.yaml", "check-config")
    words = "write the origin of a front end as its browser has it: https://ops.example.com, or http://localhost:3000"
    assert (code, errors) == (1, f"error: f.yaml:3: cors_origins.0: {words}\n")


# -- the running exporter ----------------------------------------------------------------------------------------------


def ask(
    exporter: Exporter, method: str, path: str, auth: tuple[str, str] | None = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{exporter.port}{PREFIX}/{path}"
    return httpx.request(method, url, headers=named, auth=auth, timeout=10)


def test_a_preflight_needs_no_credential_and_everything_else_does(tmp_path: Path) -> None:
    password = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yaml").write_text(f"basic_auth_users:\n  frontend: {password}\n")
    text = f"sources: {{host: {{enabled: false}}}}\ncors_origins: ['{ORIGIN}']\n"
    with running(tmp_path, text, f"--web.config.file={tmp_path / 'web.yaml'}") as exporter:
        preflight = {"Origin": ORIGIN, "Access_Control_Request_Method": "GET"}
        assert ask(exporter, "OPTIONS", "health", None, **preflight).status_code == 200
        assert ask(exporter, "OPTIONS", "health").status_code == 401
        refused = ask(exporter, "GET", "health", Origin=ORIGIN)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        answer = ask(exporter, "GET", "health", auth=("frontend", "secret"), Origin=ORIGIN)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_origins_change_with_a_reload(tmp_path: Path) -> None:
    with running(tmp_path, "sources: {host: {enabled: false}}\n") as exporter:
        assert "access-control-allow-origin" not in ask(exporter, "GET", "health", Origin=ORIGIN).headers
        exporter.settings.write_text(f"sources: {{host: {{enabled: false}}}}\ncors_origins: ['{ORIGIN}']\n")
        assert exporter.post("/-/reload").status_code == 200
        answer = ask(exporter, "GET", "health", Origin=ORIGIN)
        assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_documents_and_gauges_agree(tmp_path: Path, sqlite: SQLite) -> None:
    site = Site(sqlite.url, sqlite.execute, ZoneInfo("UTC"), SQLITE_SECONDS)
    fill(site, datetime.now(UTC))
    with running(tmp_path, "default_interval: 1h\n", database_url=sqlite.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 5, "all are up")
        series = exporter.series()
        document = ask(exporter, "GET", "metrics").json()
        dashboard = ask(exporter, "GET", "dashboard").json()

    def total(gauge: str, label: str = "") -> float:
        return sum(value for name, value in series.items() if name.startswith(f"{gauge}{{") and label in name)

    assert (
        document["orders"]["total"] == total("coldchain_orders", 'window="24h"') == dashboard["metrics"]["orders_24h"]
    )
    assert document["orders"]["by_status"]["배송완료"] == series['coldchain_orders{status="delivered",window="24h"}']
    assert document["dispatches"]["total"] == total("coldchain_dispatches", 'window="24h"')
    assert document["vehicles"]["total"] == total("coldchain_vehicles")
    assert dashboard["metrics"]["active_dispatches"] == series["coldchain_dispatches_active"]
    ratio = series["coldchain_vehicles_utilization_ratio"]
    assert dashboard["metrics"]["vehicle_utilization"] == round(ratio * 100, 1)
    assert math.isclose(document["vehicles"]["utilization_rate"], ratio * 100, abs_tol=0.05)


def test_a_database_that_stops_is_told_and_is_back_without_a_restart(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with running(tmp_path, QUICK, database_url=postgresql.url) as exporter:

        def parts() -> list[str]:
            answer = ask(exporter, "GET", "dashboard")
            assert answer.status_code == 200
            return [answer.json()["health"][part] for part in ("status", "database", "application")]

        until(lambda: parts() == ["healthy", "healthy", "healthy"], "all is well")
        postgresql.stop()
        until(lambda: parts() == ["unhealthy", "unhealthy", "degraded"], "the database is down, its figures are stale")
        check = ask(exporter, "GET", "health").json()["checks"]["database"]
        assert (check["response_time_ms"], check["message"]) == (None, "Database connection failed")
        assert "Connection refused" in check["error"]
        alerts = ask(exporter, "GET", "alerts").json()["alerts"]
        assert [alert["title"] for alert in alerts] == ["데이터베이스 연결 실패"]
        assert ask(exporter, "GET", "metrics?period_hours=48").json()["orders"] is None
        postgresql.start()
        until(lambda: parts() == ["healthy", "healthy", "healthy"], "all is well again")


def test_without_a_database_url_the_host_is_all_there_is(tmp_path: Path) -> None:
    with running(tmp_path, "{}\n") as exporter:
        health = until(lambda: ask(exporter, "GET", "health").json(), "it answers")
        assert health["checks"]["database"]["status"] == health["checks"]["application"]["status"] == "unknown"
        assert health["checks"]["system_resources"]["memory_percent"] > 0
        assert ask(exporter, "GET", "metrics?period_hours=48").json()["orders"] is None
