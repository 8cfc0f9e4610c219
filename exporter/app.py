"""What the exporter answers over HTTP: metrics for Prometheus, JSON for a front end, a page for people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from exporter.api import Api, refuse
from exporter.collector import Collector
from exporter.metrics import Exposition, accepts_gzip
from exporter.periods import Periods
from exporter.snapshot import Board
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
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
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
    exposition = Exposition(board, version, monotonic)
    api = Api(board, Periods(board, collector.ask, monotonic), version, monotonic)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        start()
        await run_in_threadpool(collector.wait_for_first, FIRST_LOOK_SECONDS)
        yield
        collector.stop()

    def index(_request: Request) -> Response:
        from exporter import page  # noqa: PLC0415 - the template engine is loaded when a person looks

        return HTMLResponse(page.render(board.snapshot, version, monotonic(), datetime.now(UTC)))

    def ready() -> str | None:
        waiting = [state for state in board.snapshot.states.values() if state.up(monotonic()) is None]
        return "the sources have not been looked at yet" if waiting else None

    app = Starlette(
        routes=[
            Route("/metrics", Metrics(exposition)),
            Route("/", index),
            *state_routes(ready=ready, reload=reload),
            *api.routes,
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # its redirects name the scheme that a proxy before us speaks to us
    return app
