"""The receiver's doors: the webhook, the page for people, metrics, history."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from datetime import UTC, datetime, tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from receiver import notify
from receiver.alertmanager import InvalidPayloadError
from receiver.channels import CHANNELS
from receiver.firing import Unreachable
from receiver.notification import SEVERITIES, Alert, masked
from receiver.outbox import Accepted, DeliveryRecord, Filter, NotificationRecord
from receiver.service import Receiver
from receiver.store import StoreUnavailableError
from receiver.stories import link, plain
from receiver.tables import OPEN_STATES
from serving.reload import Reload
from serving.routes import state_routes
from serving.sites import from_another_site

__all__ = ["create_app"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

_STATES = (*OPEN_STATES, "delivered", "partial", "uncertain", "merged", "suppressed", "failed")
_MOST_LISTED = 500
_LARGEST = 2**62  # of the numbers that both databases can be asked for
_LISTED_ON_PAGE = 30
_LONGEST_DETAIL = 300
# Of all bodies that are being read or worked on. What becomes of one in Python is some ten times its size, so the
# large ones are worked on one after the other, and in a thread, for they take longer than the others are to wait.
_MOST_BYTES_AT_ONCE = 64 * 2**20
_LARGE_BYTES = 2**16
_ANSWER_SECONDS = 8.0  # Alertmanager waits for 10 at least; what is stored later is a duplicate when it tries again


def create_app(receiver: Receiver, *, reload: Reload, allow_anonymous: bool = False) -> Starlette:
    """The application; its lifespan starts and stops the receiver.

    `allow_anonymous`: where no credential is configured, whoever reaches it may have it notify people.
    """
    doors = _Doors(receiver, reload)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(receiver.start)
        yield
        await run_in_threadpool(receiver.stop)

    app = Starlette(
        routes=[
            Route("/webhook", doors.webhook, methods=["POST"]),
            Route("/metrics", doors.metrics),
            Route("/", doors.page),
            *state_routes(ready=receiver.ready, reload=reload),
            Route("/api/v1/alerts", doors.alerts),
            Route("/api/v1/notifications", doors.notifications),
            Route("/api/v1/notifications/{id:int}", doors.notification),
            Route("/api/v1/deliveries/{id:int}/retry", doors.retry, methods=["POST"]),
            *notify.routes(receiver, allow_anonymous=allow_anonymous),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: _refuse, StoreUnavailableError: _unavailable},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # its redirects name the scheme that a proxy before us speaks to us
    return app


class _Doors:
    """The handlers. Those that wait for the store or a disk are plain functions, which Starlette runs in threads."""

    def __init__(self, receiver: Receiver, reload: Reload) -> None:
        self._receiver = receiver
        self._reload = reload
        self._bytes_at_once = 0
        self._large = asyncio.Lock()
        self._answers = _Answers()
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("receiver"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        environment.filters["masked"] = masked
        self._page = environment.get_template("index.html")

    async def webhook(self, request: Request) -> Response:
        """Alertmanager's: answered only after the commit."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            self._receiver.metrics.posted("invalid")
            raise HTTPException(415, "Content-Type: must be application/json")
        size = 0
        try:
            chunks = []
            more = True
            while more:  # what Request.stream does, whose generator costs as much as the rest of this
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    return Response(status_code=400)  # nobody reads it
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                self._bytes_at_once += len(chunk)
                if size > self._receiver.settings.max_body_bytes:
                    self._receiver.metrics.posted("invalid")
                    raise HTTPException(413, f"the body is over {self._receiver.settings.max_body_bytes} bytes")
                if self._bytes_at_once > max(_MOST_BYTES_AT_ONCE, self._receiver.settings.max_body_bytes):
                    self._receiver.metrics.posted("unavailable")
                    raise HTTPException(503, "too much is being taken in at once: try again")
                chunks.append(chunk)
            body = b"".join(chunks)
            if size > _LARGE_BYTES:
                async with self._large:
                    accepted = await run_in_threadpool(self._take_in_large, body)
            else:
                accepted = await self._answers.of(self._receiver.accept(body), _ANSWER_SECONDS)
        except (StoreUnavailableError, TimeoutError) as error:
            self._receiver.metrics.posted("unavailable")
            log.warning("webhook not stored", error=str(error) or f"no answer within {_ANSWER_SECONDS:g} s")
            raise StoreUnavailableError from None
        except InvalidPayloadError as error:
            raise HTTPException(400, str(error)[:_LONGEST_DETAIL]) from None
        finally:
            self._bytes_at_once -= size
        self._receiver.metrics.posted("duplicate" if accepted.duplicate else "accepted")
        return JSONResponse(
            {
                "notification": accepted.notification_id,
                "deliveries": accepted.deliveries,
                "duplicate": accepted.duplicate,
            }
        )

    def _take_in_large(self, body: bytes) -> Accepted:
        return self._receiver.accept(body).result(_ANSWER_SECONDS)

    def metrics(self, request: Request) -> Response:
        body, headers = self._receiver.metrics.scrape(
            request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
        )
        return Response(body, headers=headers)

    def page(self, _request: Request) -> Response:
        settings = self._receiver.settings
        latest, waiting, heartbeat, firing, is_read, trouble = [], [], None, [], False, None
        try:
            latest = self._receiver.outbox.history(Filter(limit=_LISTED_ON_PAGE))
            waiting = self._receiver.outbox.waiting()
            heartbeat = self._receiver.outbox.heartbeat()
            firing = self._receiver.firing()
            is_read = True
            self._receiver.outbox.check(now=datetime.now(UTC))  # a full disk can be read
        except StoreUnavailableError as error:
            trouble = str(error)
        counts = {(row.channel, row.state): row.count for row in waiting}
        text = self._page.render(
            version=version("coldchain-monitor"),
            is_read=is_read,
            trouble=trouble,
            reload_successful=self._reload.successful,
            channels=[
                {
                    "name": name,
                    "missing": settings.missing[name],
                    "up": self._receiver.metrics.channel_up(name),
                    "waiting": sum(counts.get((name, state), 0) for state in OPEN_STATES),
                    "failed": counts.get((name, "failed"), 0),
                }
                for name in CHANNELS
            ],
            heartbeat=heartbeat.astimezone(settings.zone) if heartbeat is not None else None,
            heartbeat_is_missing=heartbeat is not None
            and datetime.now(UTC) - heartbeat >= settings.heartbeat.missing_after,
            firing=[
                {
                    "alert": one.alert,
                    "state": one.state,
                    "title": _title(one.alert),
                    "message": plain(one.alert.annotations.get("description", ""), 200),
                    "runbook": link(one.alert.annotations.get("runbook_url", "")),
                    "heard_at": one.heard_at,
                }
                for one in firing[:_LISTED_ON_PAGE]
            ],
            firing_count=len(firing),
            unasked=_unasked(self._receiver),
            notifications=[record for record in latest if record.deliveries],
            zone=settings.zone,
            now=datetime.now(UTC),
        )
        return HTMLResponse(text, headers={"Cache-Control": "no-store"})  # serving adds the rest

    def alerts(self, _request: Request) -> Response:
        zone = self._receiver.settings.zone
        found = [
            {**_alert(one.alert, zone), "status": one.state, "heard_at": _local(one.heard_at, zone)}
            for one in self._receiver.firing()
        ]
        return JSONResponse({"alerts": found, "alertmanager": _unasked(self._receiver) or "asked"})

    def notifications(self, request: Request) -> Response:
        wanted = _filter(request)
        zone = self._receiver.settings.zone
        found = self._receiver.outbox.history(wanted)
        more = found[-1].id if len(found) == wanted.limit else None
        return JSONResponse({"notifications": [_document(record, zone) for record in found], "before": more})

    def notification(self, request: Request) -> Response:
        zone = self._receiver.settings.zone
        number = request.path_params["id"]
        record = self._receiver.outbox.notification(number) if number <= _LARGEST else None
        if record is None or record.notification is None:
            raise HTTPException(404, "there is no such notification")
        alerts = [_alert(alert, zone) for alert in record.notification.alerts]
        return JSONResponse({**_document(record, zone), "alerts": alerts})

    def retry(self, request: Request) -> Response:
        if from_another_site(request.headers):
            raise HTTPException(403, "another site's page asked for this")
        delivery_id = request.path_params["id"]
        done = self._receiver.retry(delivery_id) if delivery_id <= _LARGEST else None
        if done is None:
            raise HTTPException(404, "there is no such delivery")
        if not done:
            raise HTTPException(409, "only a delivery that is failed, partial, uncertain or suppressed is tried again")
        return JSONResponse({"delivery": delivery_id, "state": "pending"})


class _Answers:
    """Takes what other threads have found to the event loop: what comes together by one call, for each wakes it up."""

    def __init__(self) -> None:
        self._found: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._called = False

    async def of(self, work: Future[T], seconds: float) -> T:
        """What the work came to; raises what it raises, TimeoutError after so many seconds."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        work.add_done_callback(functools.partial(self._take, loop, answer))
        async with asyncio.timeout(seconds):
            return await answer

    def _take(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], work: Future[Any]) -> None:
        self._found.append((answer, work))
        if not self._called:
            self._called = True
            loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._called = False  # before the look: what is found later calls again
        while self._found:
            answer, work = self._found.popleft()
            if answer.done():  # nobody waits any more
                continue
            error = work.exception()
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(work.result())


def _filter(request: Request) -> Filter:
    asked = request.query_params
    status = _one_of(asked.get("status"), "status", ("firing", "resolved", *_STATES))
    return Filter(
        firing=status == "firing" if status in ("firing", "resolved") else None,
        state=status if status in _STATES else None,
        severity=_one_of(asked.get("severity"), "severity", SEVERITIES),
        channel=_one_of(asked.get("channel"), "channel", CHANNELS),
        before=_number(asked.get("before"), "before", _LARGEST),
        limit=_number(asked.get("limit"), "limit", _MOST_LISTED) or 50,
    )


def _one_of(value: str | None, name: str, allowed: tuple[str, ...]) -> str | None:
    if value and value not in allowed:
        raise HTTPException(422, f"{name}: must be one of {', '.join(allowed)}")
    return value or None


def _number(value: str | None, name: str, most: int) -> int | None:
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and 1 <= int(value) <= most):
        raise HTTPException(422, f"{name}: must be a number from 1 to {most}")
    return int(value)


def _document(record: NotificationRecord, zone: tzinfo) -> dict[str, Any]:
    return {
        "id": record.id,
        "received_at": _local(record.received_at, zone),
        "source": record.source,
        "group_key": record.group_key,
        "title": record.title,
        "status": "firing" if record.firing else "resolved",
        "severity": record.severity,
        "alert_count": record.alert_count,
        "duplicates": record.duplicates,
        "deliveries": [_delivery(delivery, zone) for delivery in record.deliveries],
    }


def _delivery(record: DeliveryRecord, zone: tzinfo) -> dict[str, Any]:
    return {
        "id": record.id,
        "channel": record.channel,
        "audience": record.audience,
        "severity": record.severity,
        "status": "firing" if record.firing else "resolved",
        "state": record.state,
        "attempts": record.attempts,
        "created_at": _local(record.created_at, zone),
        "next_attempt_at": _local(record.next_attempt_at, zone),
        "settled_at": _local(record.settled_at, zone),
        "error": record.error,
        "merged_into": record.merged_into,
        "fallback_for": record.fallback_for,
        "recipients": [
            {
                "address": recipient.address,
                "state": recipient.state,
                "error": recipient.error,
                "settled_at": _local(recipient.settled_at, zone),
            }
            for recipient in record.recipients
        ],
    }


def _alert(alert: Alert, zone: tzinfo) -> dict[str, Any]:
    return {
        "fingerprint": alert.fingerprint,
        "status": "firing" if alert.firing else "resolved",
        "severity": alert.severity,
        "starts_at": _local(alert.starts_at, zone),
        "ends_at": _local(alert.ends_at, zone),
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "generator_url": alert.generator_url,
    }


def _title(alert: Alert) -> str:
    return plain(alert.annotations.get("summary", ""), 200) or plain(alert.name, 200) or alert.fingerprint


def _unasked(receiver: Receiver) -> str:
    """Why it is not sure what fires: Alertmanager has no address, or does not answer."""
    latest = receiver.alertmanager.latest
    if receiver.settings.alertmanager_url is None:
        return "not set: ALERTMANAGER_URL"
    if latest is None:
        return "not asked yet"
    return f"not reached: {latest.error}" if isinstance(latest, Unreachable) else ""


def _local(time: datetime | None, zone: tzinfo) -> str | None:
    return time.astimezone(zone).isoformat() if time is not None else None


def _refuse(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


def _unavailable(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"detail": "the store is unavailable: try again"}, 503)
