"""Limits that uvicorn does not have: how long a request may take to arrive, and how long its head may be."""

from __future__ import annotations

import asyncio

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_BYTES", "REQUEST_SECONDS", "BoundedHttp"]

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 30.0
"""From a request's first byte (or the connection) to the last of its body: 5 MB from Alertmanager need far less."""

HEAD_BYTES = 64 * 1024
"""Request line and headers together; nginx's default is 32 KiB."""


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request does not arrive in time or whose head does not end."""

    _timer: asyncio.TimerHandle | None = None
    _head = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > HEAD_BYTES:
            self._refuse("head too long")

    def on_message_begin(self) -> None:
        self._start()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop()
        self._in_head, self._head = True, 0
        super().on_message_complete()

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._refuse, "request too slow")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, reason: str) -> None:
        log.warning("connection closed", reason=reason, client=self.client[0] if self.client else None)
        self.transport.close()
