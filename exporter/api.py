"""The JSON API under `/api/v1/monitoring`: the guide's documents, with an ETag each, and CORS for a front end."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter import monitoring, openapi
from exporter.metrics import valid_until
from exporter.openapi import DEFAULT_PERIOD_HOURS, LONGEST_PERIOD_HOURS, PREFIX
from exporter.periods import Periods
from exporter.snapshot import Board, Snapshot

__all__ = ["Api", "Cors", "refuse"]

PREFLIGHT_SECONDS = 600
"""How long a browser may remember what it may ask."""


@dataclass(frozen=True)
class Body:
    """An answer as it is sent, and what it is known by."""

    content: bytes
    etag: str


def encode(document: Mapping[str, object]) -> Body:
    """The document as JSON; equal documents have equal ETags."""
    content = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return Body(content, f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"')


class Api:
    """The routes. All of them run on the event loop and touch nothing but memory; a period is waited for there."""

    def __init__(
        self, board: Board, periods: Periods, version: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._periods = periods
        self._monotonic = monotonic
        self._version = version
        self._snapshot: Snapshot | None = None
        self._valid_until = -math.inf
        self._bodies: dict[str, Body] = {}

    @property
    def routes(self) -> list[Route]:
        """What is served under the prefix."""
        return [
            Route(f"{PREFIX}/health", self.health),
            Route(f"{PREFIX}/metrics", self.metrics),
            Route(f"{PREFIX}/alerts", self.alerts),
            Route(f"{PREFIX}/dashboard", self.dashboard),
            Route(f"{PREFIX}/openapi.json", self.description),
        ]

    async def health(self, request: Request) -> Response:
        """`GET health`."""
        return _answer(request, self._body("health", monitoring.health))

    async def alerts(self, request: Request) -> Response:
        """`GET alerts`."""
        return _answer(request, self._body("alerts", monitoring.alerts))

    async def dashboard(self, request: Request) -> Response:
        """`GET dashboard`."""
        return _answer(request, self._body("dashboard", monitoring.dashboard))

    async def metrics(self, request: Request) -> Response:
        """`GET metrics?period_hours=`: a window of the settings from the snapshot, any other from the database."""
        hours = period_hours(request)
        window = timedelta(hours=hours)

        def present(snapshot: Snapshot, now: float, moment: datetime) -> Mapping[str, object]:
            return monitoring.metrics(snapshot, hours, monitoring.present(snapshot, now), now, moment)

        if window in self._board.snapshot.settings.windows:
            return _answer(request, self._body(f"metrics {hours}", present))
        answers = await self._periods.find(window)
        document = monitoring.metrics(self._board.snapshot, hours, answers, self._monotonic(), datetime.now(UTC))
        return _answer(request, encode(document))

    async def description(self, request: Request) -> Response:
        """`GET openapi.json`."""
        return _answer(request, self._description)

    @functools.cached_property
    def _description(self) -> Body:
        """Made when it is first asked for, which most never are."""
        return encode(openapi.description(self._version))

    def _body(self, name: str, make: Callable[[Snapshot, float, datetime], Mapping[str, object]]) -> Body:
        """Made once for each snapshot, and again when the mere passing of time changes what it shows."""
        now = self._monotonic()
        snapshot = self._board.snapshot
        if snapshot is not self._snapshot or now >= self._valid_until:
            self._snapshot, self._valid_until, self._bodies = snapshot, valid_until(snapshot, now), {}
        body = self._bodies.get(name)
        if body is None:
            body = self._bodies[name] = encode(make(snapshot, now, datetime.now(UTC)))
        return body


def period_hours(request: Request) -> int:
    """The parameter; raises HTTPException 422 where it is no whole number from 1 to 168, or given twice."""
    given = request.query_params.getlist("period_hours") or [str(DEFAULT_PERIOD_HOURS)]
    if len(given) > 1:
        raise HTTPException(422, "period_hours: given twice")
    if not re.fullmatch(r"0*[1-9][0-9]{0,2}", given[0], re.ASCII) or int(given[0]) > LONGEST_PERIOD_HOURS:
        raise HTTPException(422, f"period_hours: must be a whole number from 1 to {LONGEST_PERIOD_HOURS}")
    return int(given[0])


def _answer(request: Request, body: Body) -> Response:
    # no-cache: a browser keeps it and asks each time whether it still holds, which costs a 304
    headers = {"ETag": body.etag, "Cache-Control": "private, no-cache"}
    if _has(request.headers.get("if-none-match", ""), body.etag):
        return Response(status_code=304, headers=headers)
    return Response(body.content, headers=headers, media_type="application/json")


def _has(if_none_match: str, etag: str) -> bool:
    """Whether the caller has it, by weak comparison (RFC 9110, 13.1.2): a proxy that compresses makes ETags weak."""
    return if_none_match.strip() == "*" or etag in re.findall(r'"[^"]*"', if_none_match)


async def refuse(_request: Request, error: Exception) -> Response:
    """An HTTPException as JSON."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


class Cors:
    """ASGI middleware around everything, authentication too: a browser's preflight shows no credential.

    Answers preflights for the JSON API and lets pages of the origins in force read it, refusals included.
    """

    def __init__(self, app: ASGIApp, origins: Callable[[], tuple[str, ...]]) -> None:
        self._app = app
        self._origins = origins
        self._in_force: tuple[str, ...] = ()
        self._middleware: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers a preflight."""
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        origins = self._origins()
        if origins != self._in_force:
            self._in_force = origins
            self._middleware = (
                self._app
                if not origins
                else CORSMiddleware(
                    self._app,
                    allow_origins=origins,
                    allow_methods=("GET", "HEAD"),
                    allow_headers=("Authorization", "If-None-Match"),
                    expose_headers=("ETag",),
                    max_age=PREFLIGHT_SECONDS,
                )
            )
        await self._middleware(scope, receive, send)
