"""Limits that uvicorn does not have: on the time a client may take, on a request's head, on connections."""

from __future__ import annotations

import asyncio
import functools
import math
import resource
from collections.abc import Callable
from typing import Any, ClassVar

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = [
    "ANSWER_SECONDS",
    "BURST",
    "CONNECTIONS",
    "HEAD_BYTES",
    "REQUEST_SECONDS",
    "BoundedHttp",
    "Loop",
    "allow_files",
]

log = structlog.get_logger(__name__)

CONNECTIONS = 512
"""At once. Beyond them those that have kept the server waiting longest make room, if for a second at least."""

BURST = 4096
"""At once at the most: Alertmanager opens a connection for each of its groups, all of them in one moment."""

REQUEST_SECONDS = 30.0
"""From a request's first byte (or the connection) to the last of its body: 5 MB from Alertmanager need far less."""

ANSWER_SECONDS = 30.0
"""From the first byte of an answer that the client does not take at once to the last: a megabyte at 35 kB/s."""

HANDSHAKE_SECONDS = 10.0
"""For TLS's handshake; asyncio's own default is 60."""

HEAD_BYTES = 64 * 1024
"""Of a request without its body: request line, headers, what frames a chunk. nginx's default is 32 KiB."""

FILES = 8192
"""Open at once, where the system lets us: a connection in its TLS handshake is not among CONNECTIONS yet."""

_SAY_EVERY_SECONDS = 60.0
_PATIENCE_SECONDS = 1.0


def allow_files() -> None:
    """Raises the soft limit of open files, as far as the hard one allows: many systems leave it at 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not wait long for TLS's handshake; uvicorn has no setting for it."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*args, **options)


class _Joining(asyncio.Transport):
    """What is written within one turn of the event loop goes out in one piece: uvicorn writes head and body apart.

    The end of an answer waits for no turn: `flush` says that it is there.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: Any) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        if self._held and not self._transport.is_closing():
            data = b"".join(self._held)
            self._held.clear()
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class _Deadline:
    """Calls when a time is up that is put off again and again: a new timer each time would cost more than it says."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._at is not None

    def set(self, seconds: float) -> None:
        """So many seconds from now, and no sooner; never less than those of the time before."""
        self._at = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._at, self._look)

    def lift(self) -> None:
        """It is not called any more."""
        self._at = None

    def end(self) -> None:
        """Nothing is left of it."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at > self._loop.time():
            self._timer = self._loop.call_at(self._at, self._look)
        else:
            self._at = None
            self._call()


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection that keeps the server waiting: for a request, its end, or the reading of an answer."""

    _said_at: ClassVar[dict[str, float]] = {}
    _looked_at: ClassVar[float] = -math.inf

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request = _Deadline(self.loop, functools.partial(self._close, "request too slow"))
        self._answer = _Deadline(self.loop, functools.partial(self.abort, "answer read too slowly"))
        self.waiting_since: float | None = None
        """Since when nothing is to be done before the client does something; None while the server works for him."""
        self.aborted = False
        self._overhead = 0
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.transport = self._joining = _Joining(transport, self.loop)
        # From now on writing is paused as long as the client has not taken everything. (With 0, TLS starts paused.)
        transport.set_write_buffer_limits(high=1)
        self._await_request()
        if len(self.connections) >= CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request.end()
        self._answer.end()
        if self._answering is not None:  # uvicorn tells the newest request alone, which may still wait for its turn
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._request.is_set and self.waiting_since is not None:
            self._await_request()  # an empty line begins no request, but ends uvicorn's own waiting for one
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > HEAD_BYTES:
            self._close("head too long")

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio keeps the connection where it is True
        """A client that sends no more is still answered what it has asked for whole. TLS knows no such half."""
        super().eof_received()
        self._await_reader()  # TLS is not closed before the client has taken what is left for him
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer.lift()
        if self.cycle is not None and not self.cycle.response_complete:
            self.waiting_since = None

    def on_message_begin(self) -> None:
        self._await_request()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Called by httptools where a chunk of a body ends."""
        self._overhead = 0

    def on_message_complete(self) -> None:
        self._overhead = 0
        self._request.lift()
        self.waiting_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._joining.flush()  # before asyncio reads that the client sends no more, and closes
        super().on_response_complete()
        if self.waiting_since is None and self.cycle.response_complete:
            self.waiting_since = self.loop.time()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        self._say("no valid HTTP request")
        super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: who asks for another protocol is answered in this one, as HTTP has it."""

    def _await_request(self) -> None:
        self._request.set(REQUEST_SECONDS)
        if self.waiting_since is None:
            self.waiting_since = self.loop.time()

    def _await_reader(self) -> None:
        if not self._answer.is_set:
            self._answer.set(ANSWER_SECONDS)
        if self.waiting_since is None:
            self.waiting_since = self.loop.time()

    def _make_room(self) -> None:
        """Ends connections that have waited longest for their clients, but none that may be a request on its way."""
        now = self.loop.time()
        if now - BoundedHttp._looked_at < _PATIENCE_SECONDS / 10 and len(self.connections) < BURST:
            return  # to look through thousands for each of thousands would cost more than they do
        BoundedHttp._looked_at = now
        others = [one for one in self.connections if isinstance(one, BoundedHttp) and not one.aborted]
        latest = now - (_PATIENCE_SECONDS if len(others) < BURST else 0)
        waiting = [(one.waiting_since, one) for one in others if one is not self and one.waiting_since is not None]
        waiting = sorted((pair for pair in waiting if pair[0] <= latest), key=lambda pair: pair[0])
        for _, one in waiting[: max(len(others) - CONNECTIONS + 1, 0)]:
            one.abort("too many connections")

    def _close(self, reason: str) -> None:
        self._say(reason)
        self.transport.close()

    def abort(self, reason: str) -> None:
        """Ends it at once, whatever is still to be sent."""
        self._say(reason)
        self.aborted = True
        self.transport.abort()

    def _say(self, reason: str) -> None:
        now = self.loop.time()
        if now - self._said_at.get(reason, -math.inf) >= _SAY_EVERY_SECONDS:
            self._said_at[reason] = now
            client = self.client[0] if self.client else None
            log.warning("connection closed", reason=reason, client=client, untold="others within the next minute")
