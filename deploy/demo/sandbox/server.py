"""Runs the sandbox: all its servers on one event loop, in a thread of its own."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.demo.sandbox.aligo import Aligo, AligoAccount
from deploy.demo.sandbox.app import build
from deploy.demo.sandbox.behaviour import Behaviours
from deploy.demo.sandbox.client import Client
from deploy.demo.sandbox.inbox import Inbox
from deploy.demo.sandbox.services import Services
from deploy.demo.sandbox.slack import Pace
from deploy.demo.sandbox.smtp import Account, Mailroom

Address = tuple[str, int]


@dataclass(frozen=True)
class Options:
    """Where it listens (port 0: a free one) and how its accounts are set up."""

    http: Address = ("127.0.0.1", 0)
    smtp: Address = ("127.0.0.1", 0)
    smtps: Address | None = None  # implicit TLS, needs the certificate
    certificate: Path | None = None  # PEM; with it `smtp` offers STARTTLS
    key: Path | None = None
    smtp_account: Account | None = None
    slack_rate: float = 1  # messages a second per hook; 0: no limit
    slack_burst: int = 5
    aligo: AligoAccount = field(default_factory=AligoAccount)
    aligo_balance: int = 100_000  # in short messages
    keep: int = 5_000  # messages of each channel


class Sandbox(Client):
    """A running sandbox and the client of its control API. Raises OSError for a port that is taken."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        tls = _tls(self.options)
        with contextlib.ExitStack() as opened:
            http = opened.enter_context(_listen(self.options.http))
            smtp = opened.enter_context(_listen(self.options.smtp))
            smtps = opened.enter_context(_listen(self.options.smtps)) if self.options.smtps else None
            self._open = opened.pop_all()
        self.smtp: Address = smtp.getsockname()[:2]
        self.smtps: Address | None = smtps.getsockname()[:2] if smtps else None
        host, port = http.getsockname()[:2]
        super().__init__(f"http://{host}:{port}")

        self._behaviours = Behaviours()
        inbox = Inbox(self.options.keep)
        service = Aligo(self.options.aligo, inbox, sms=self.options.aligo_balance)
        pace = Pace(self.options.slack_rate, self.options.slack_burst)
        self._room = Mailroom(inbox, self._behaviours, self.options.smtp_account)
        self._server = _server(build(Services(inbox, self._behaviours, service, pace)))
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(http, smtp, smtps, tls)), name="sandbox", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._server.should_exit = True
        self._thread.join()
        self._open.close()

    def addresses(self) -> dict[str, object]:
        """Everything that a client needs, as the command prints it."""
        account = self.options.aligo
        return {
            "http": self.url,
            "smtp": "{}:{}".format(*self.smtp),
            "smtps": "{}:{}".format(*self.smtps) if self.smtps else None,
            "slack_webhook_url": self.slack_webhook_url,
            "aligo_base_url": self.aligo_base_url,
            "aligo": {"key": account.key, "user_id": account.user_id, "senders": list(account.senders)},
        }

    async def _serve(
        self, http: socket.socket, smtp: socket.socket, smtps: socket.socket | None, tls: ssl.SSLContext | None
    ) -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(self._room.protocol(tls, implicit_tls=False), sock=smtp)]
        if smtps:
            servers.append(await loop.create_server(self._room.protocol(None, implicit_tls=True), sock=smtps, ssl=tls))
        await self._server.serve(sockets=[http])
        for server in servers:
            server.close()
        for connection in list(self._room.connections):
            connection.abort()
        await asyncio.sleep(0)  # the connections learn that they are lost


class _HttpConnection(HttpToolsProtocol):
    """Gives each request its transport, so that it can be dropped without an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": transport}


def _server(app: Starlette) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,  # second; what hangs is let go
        )
    )


def _listen(address: Address) -> socket.socket:
    try:
        listener = socket.create_server(address, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {reason}") from error
    # asyncio sets it only where a socket says IPPROTO_TCP (base_events._set_nodelay); without it an answer takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _tls(options: Options) -> ssl.SSLContext | None:
    if not options.certificate:
        if options.smtps:
            raise ValueError("--smtps needs --smtp-cert and --smtp-key")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:  # ssl.SSLError is one too
        raise OSError(error.errno, f"cannot use the certificate {options.certificate}: {error.strerror}") from error
    return context
