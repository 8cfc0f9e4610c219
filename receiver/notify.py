"""The guide's API for programs: `notify` and the tests, stored first like a webhook, then awaited for a few seconds."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.notice import InvalidNoticeError, Outcome, Posted, outcome, read, trial
from receiver.outbox import KeyReusedError
from receiver.service import Receiver
from receiver.store import StoreUnavailableError
from serving.sites import from_another_site

__all__ = ["Turns", "is_local", "routes"]

_PATH = "/api/v1/monitoring"
_MOST_BYTES = 2**20
_LOOKS = (0.05, 0.1, 0.1, 0.25)  # seconds between looks at the outcome; the last one again and again
_FORWARDING = re.compile(r"x-forwarded(-.*)?|forwarded|x-real-ip|via|x-client-ip|true-client-ip")
_TEST_GIVEN_UP = timedelta(minutes=1)
_NEEDS = (
    "is sent only for a caller on the receiver's own machine that no proxy has passed on, or for one with a "
    "credential: set RECEIVER_TOKEN or --web.config.file"
)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def routes(receiver: Receiver, *, allow_anonymous: bool = False) -> Sequence[Route]:
    """`allow_anonymous`: `notify` is open to every caller where no credential is configured."""
    doors = _Doors(receiver, allow_anonymous=allow_anonymous)
    return [
        Route(f"{_PATH}/notify", doors.notify, methods=["POST"]),
        Route(f"{_PATH}/test/email", doors.test_email),
        Route(f"{_PATH}/test/slack", doors.test_slack),
        Route(f"{_PATH}/test/alert", doors.test_alert, methods=["POST"]),
    ]


def is_local(client: str | None, headers: Mapping[str, str]) -> bool:
    """Whether somebody at this machine asks: from loopback, passed on by nobody, by a local name of the host's.

    The name keeps out pages that have their own name point here. `headers` have lower-case names, as ASGI has it.
    """
    if not _is_loopback(client) or any(_FORWARDING.fullmatch(name) for name in headers):
        return False
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return False
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class Turns:
    """At most so many within a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: deque[float] = deque()
        self._lock = threading.Lock()

    def take(self, a_minute: int) -> float:
        """Takes a turn: 0, or the seconds until there is one."""
        with self._lock:
            now = self._clock()
            while self._taken and self._taken[0] <= now - 60:
                self._taken.popleft()
            if len(self._taken) >= a_minute:
                return self._taken[-a_minute] + 60 - now
            self._taken.append(now)
            return 0


class _Doors:
    def __init__(self, receiver: Receiver, *, allow_anonymous: bool) -> None:
        self._receiver = receiver
        self._allow_anonymous = allow_anonymous
        self._turns = Turns()

    async def notify(self, request: Request) -> Response:
        """Tells people what a program has to say."""
        _refuse_other_sites(request)
        if not (self._allow_anonymous or _is_known(request)):
            raise HTTPException(403, f"a notification {_NEEDS}")
        key = request.headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            raise HTTPException(422, "Idempotency-Key: must have 1 to 255 visible ASCII characters")
        try:
            document = _parsed(await _body(request))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            notice = read(document, self._receiver.settings)
        except InvalidNoticeError as error:
            raise HTTPException(422, str(error)) from None
        try:
            posted = await run_in_threadpool(self._receiver.tell, notice, source="notify", key=key)
        except KeyReusedError:
            raise HTTPException(422, "Idempotency-Key: was given with another body before") from None
        return await self._answer(posted)

    async def test_email(self, request: Request) -> Response:
        """A test mail to whom the caller names."""
        self._admit_test(request)
        address = request.query_params.get("to_email", "")
        if not address:
            raise HTTPException(422, "to_email: is missing")
        return await self._test(
            "email", "info", {"email_recipients": [address]}, names={"email_recipients": "to_email"}
        )

    async def test_slack(self, request: Request) -> Response:
        """A test message to the configured hooks."""
        self._admit_test(request)
        return await self._test("slack", "info")

    async def test_alert(self, request: Request) -> Response:
        """A test of a level on a channel, to the configured recipients."""
        self._admit_test(request)
        asked = request.query_params
        return await self._test(
            asked.get("channel") or "slack", asked.get("level") or "warning", names={"channels.0": "channel"}
        )

    def _admit_test(self, request: Request) -> None:
        if request.method == "HEAD":  # Starlette adds it to GET
            raise HTTPException(405, "HEAD sends nothing: use GET", headers={"Allow": "GET"})
        _refuse_other_sites(request)
        if not _is_known(request):
            raise HTTPException(403, f"a test {_NEEDS}")

    async def _test(
        self,
        channel: str,
        level: str,
        more: Mapping[str, Any] | None = None,
        *,
        names: Mapping[str, str] | None = None,
    ) -> Response:
        settings = self._receiver.settings
        try:
            notice = read(trial(channel, level, settings.locale) | dict(more or {}), settings)
        except InvalidNoticeError as error:
            field, _, words = str(error).partition(":")
            named = (names or {}).get(field)  # a parameter that is no list
            raise HTTPException(422, f"{named}:{words.replace(' number 1', '')}" if named else str(error)) from None
        wait = self._turns.take(settings.notify.tests_a_minute)
        if wait:
            raise HTTPException(429, "too many tests: wait a little", headers={"Retry-After": str(math.ceil(wait))})
        # whatever the hour, and soon or not at all: a test that arrives tomorrow only puzzles
        posted = await run_in_threadpool(
            self._receiver.tell, notice, source="test", quiet=False, give_up_after=_TEST_GIVEN_UP
        )
        return await self._answer(posted)

    async def _answer(self, posted: Posted) -> Response:
        """Waits for the outcome without holding a thread."""
        deadline = time.monotonic() + self._receiver.settings.notify.wait.total_seconds()
        pauses = itertools.chain(_LOOKS, itertools.repeat(_LOOKS[-1]))
        while True:
            found, waits = await run_in_threadpool(self._look, posted)
            left = deadline - time.monotonic()
            if not waits or left <= 0:
                return JSONResponse(found.document(), headers={"Cache-Control": "no-store"})
            await asyncio.sleep(min(next(pauses), left))

    def _look(self, posted: Posted) -> tuple[Outcome, bool]:
        """What became of it, and whether waiting a little may tell more."""
        try:
            record = self._receiver.outbox.notification(posted.notification_id)
        except StoreUnavailableError:  # it is stored: an answer that has it sent again would be wrong
            return outcome(posted, None), False
        records = record.deliveries if record is not None else ()
        return outcome(posted, records), any(one.state in ("pending", "retrying") for one in records)


def _is_known(request: Request) -> bool:
    """Whether the caller has shown a credential, or sits at this machine."""
    if getattr(request.state, "authenticated", False):
        return True
    return is_local(request.client.host if request.client is not None else None, request.headers)


def _refuse_other_sites(request: Request) -> None:
    """A page of another site can have a browser on this machine send it, with its credentials even."""
    if from_another_site(request.headers):
        raise HTTPException(403, "another site's page asked for this")


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Content-Type: must be application/json")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MOST_BYTES:
            raise HTTPException(413, f"the body is over {_MOST_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
