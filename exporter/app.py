"""What the exporter answers over HTTP: metrics for Prometheus, JSON for a front end, a page for people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from exporter.api import Api, refuse
from exporter.collector import Collector
from exporter.metrics import Exposition, accepts_gzip
from exporter.periods import Periods
from exporter.snapshot import Board, Snapshot
from serving.reload import Reload
from serving.routes import state_routes

__all__ = ["Metrics", "create_app"]

FIRST_LOOK_SECONDS = 1.0
"""How long the start waits for the sources, so that a restart leaves no gap in the series."""


class Metrics:
    """`GET /metrics`, an ASGI application that touches nothing but memory."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answers with the present page."""
        if scope["method"] not in {"GET", "HEAD"}:
            await PlainTextResponse("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"})(scope, _receive, send)
            return
        accept = encoding = ""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept = value.decode("latin-1")
            elif name == b"accept-encoding":
                encoding = value.decode("latin-1")
        page = self._exposition.page(accept)
        compressed = encoding and accepts_gzip(encoding)
        headers = page.compressed_headers if compressed else page.plain_headers
        body = page.compressed if compressed else page.plain
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@dataclass(frozen=True)
class Row:
    """A line of the page's table."""

    name: str
    up: bool | None
    age: float | None
    interval: float
    duration: float | None
    fresh: bool
    error: str | None
    hint: str


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
            state.error if state.overdue_at is None or now < state.overdue_at else "no answer within the time-out",
            state.hint,
        )
        for state in snapshot.states.values()
    ]


def create_app(
    board: Board,
    collector: Collector,
    *,
    version: str,
    reload: Reload,
    start: Callable[[], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The application; its lifespan begins with `start` and ends with the collector's stop."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("exporter"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    exposition = Exposition(board, version, monotonic)
    api = Api(board, Periods(board, collector.ask, monotonic), version, monotonic)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        start()
        await run_in_threadpool(collector.wait_for_first, FIRST_LOOK_SECONDS)
        yield
        collector.stop()

    def page(_request: Request) -> Response:
        snapshot = board.snapshot
        table = rows(snapshot, monotonic(), datetime.now(UTC))
        text = environment.get_template("index.html").render(
            version=version,
            rows=table,
            reload_successful=snapshot.reload_successful,
            has_database=any(name != "host" for name in snapshot.states),
        )
        return HTMLResponse(text)

    def ready() -> str | None:
        waiting = [state for state in board.snapshot.states.values() if state.up(monotonic()) is None]
        return "the sources have not been looked at yet" if waiting else None

    app = Starlette(
        routes=[
            Route("/metrics", Metrics(exposition)),
            Route("/", page),
            *state_routes(ready=ready, reload=reload),
            *api.routes,
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # its redirects name the scheme that a proxy before us speaks to us
    return app
