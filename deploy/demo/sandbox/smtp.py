"""The mail server: aiosmtpd, with a place to go wrong at every stage."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import AnyStr

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from deploy.demo.sandbox.behaviour import Behaviours, Standing
from deploy.demo.sandbox.inbox import Inbox, Mail

log = logging.getLogger(__name__)

HOSTNAME = "sandbox.localhost"
MAX_MAIL_BYTES = 35_882_577  # what Gmail announces in its EHLO

# RFC 5321, section 4.2.3.
REPLIES = {
    421: "Service not available, closing transmission channel",
    450: "Requested mail action not taken: mailbox unavailable",
    451: "Requested action aborted: local error in processing",
    452: "Requested action not taken: insufficient system storage",
    535: "5.7.8 Authentication credentials invalid",
    550: "Requested action not taken: mailbox unavailable",
    552: "Requested mail action aborted: exceeded storage allocation",
    553: "Requested action not taken: mailbox name not allowed",
    554: "Transaction failed",
}


@dataclass(frozen=True)
class Account:
    """Who may send; without one everybody may."""

    user: str
    password: str = field(repr=False)


@dataclass
class Mailroom:
    """What all connections share."""

    inbox: Inbox
    behaviours: Behaviours
    account: Account | None = None
    connections: set["Connection"] = field(default_factory=set)

    def protocol(self, starttls: ssl.SSLContext | None, *, implicit_tls: bool) -> Callable[[], "Connection"]:
        """What asyncio's `create_server` asks for."""
        return lambda: Connection(self, starttls, implicit_tls=implicit_tls)


class Connection(SMTP):
    """One client's conversation; aiosmtpd finds the commands by their names."""

    def __init__(self, room: Mailroom, starttls: ssl.SSLContext | None, *, implicit_tls: bool) -> None:
        self._room = room
        self._implicit_tls = implicit_tls
        self._refusal: Standing | None = None  # counted once a mail, however many recipients it refuses
        self._refused: dict[str, int] = {}
        super().__init__(
            self,
            hostname=HOSTNAME,
            ident="coldchain sandbox",
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            tls_context=starttls,
            # Behind a STARTTLS that was not made, AUTH is not offered, as Gmail does it.
            auth_require_tls=starttls is not None,
            authenticator=self._check_account,
            loop=asyncio.get_running_loop(),
        )

    # What happens to the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._room.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._room.connections.discard(self)
        super().connection_lost(error)

    def abort(self) -> None:
        """Hang up without a word."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()

    # The commands; `handle_…` are aiosmtpd's hooks

    async def _handle_client(self) -> None:
        if not await self._misbehaves("connect"):
            await super()._handle_client()
        elif self.transport is not None:
            self.transport.close()

    async def smtp_HELO(self, hostname: str) -> None:  # noqa: N802 - aiosmtpd's name, as all of these
        if not await self._misbehaves("ehlo"):
            await super().smtp_HELO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802
        if not await self._misbehaves("starttls"):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802
        if not await self._misbehaves("auth"):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        if self._room.account and self.session and not self.session.authenticated:
            self._note("mail", "530 5.7.0 Authentication required")
            await self.push("530 5.7.0 Authentication required")
        elif not await self._misbehaves("mail"):
            self._refusal, self._refused = None, {}
            await super().smtp_MAIL(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        if not await self._misbehaves("data"):
            await super().smtp_DATA(arg)

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802
        standing = self._room.behaviours.take("smtp", "ehlo")
        if await self._follow("ehlo", standing):
            return
        if standing and not standing.behaviour.starttls:
            self.tls_context = None
        await super().smtp_EHLO(hostname)

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, offers: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [offer for offer in offers if self._room.account or not offer.startswith("250-AUTH")]

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str | None:
        refusal = self._refusal
        if refusal is None or (refusal.behaviour.refuse and address not in refusal.behaviour.refuse):
            refusal = self._room.behaviours.take("smtp", "rcpt", address)
        if refusal is not None:
            self._refusal = refusal
            code = refusal.behaviour.refuse.get(address) or refusal.behaviour.status
            if code:
                self._refused[address] = code
            if await self._follow("rcpt", refusal, code):
                return None
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str | None:  # noqa: N802
        standing = self._room.behaviours.take("smtp", "message")
        accepted = standing is None or standing.behaviour.accepts
        if accepted:
            self._room.inbox.add(
                Mail(
                    mail_from=envelope.mail_from or "",
                    recipients=tuple(envelope.rcpt_tos),
                    refused=self._refused,
                    tls=self._implicit_tls or session.ssl is not None,
                    user=session.auth_data.login.decode() if isinstance(session.auth_data, LoginPassword) else None,
                    raw=envelope.original_content or b"",
                )
            )
        if await self._follow("message", standing, accepted=accepted):
            return None
        self._note("message", "250 OK", accepted=True)
        return "250 OK"

    async def handle_exception(self, error: Exception) -> str:
        log.error("the sandbox's mail server failed", exc_info=error)
        return "451 the sandbox failed, see its log"

    async def push(self, status: AnyStr | None) -> None:
        """Answer; None: the answer was given already."""
        if status is not None:
            await super().push(status)

    # How it goes wrong

    async def _misbehaves(self, stage: str) -> bool:
        return await self._follow(stage, self._room.behaviours.take("smtp", stage))

    async def _follow(
        self, stage: str, standing: Standing | None, code: int | None = None, *, accepted: bool = False
    ) -> bool:
        """Do as told; True when that was the answer."""
        if standing is None:
            return False
        behaviour = standing.behaviour
        code = code or behaviour.status
        if behaviour.hang:
            self._note(stage, "hung", accepted=accepted)
            await standing.cleared.wait()
            self.abort()
            return True
        await asyncio.sleep(behaviour.delay)
        if behaviour.drop:
            self._note(stage, "dropped", accepted=accepted)
            self.abort()
            return True
        if code is None:
            return False
        reply = f"{code} {behaviour.body or REPLIES.get(code, 'as told')}"
        self._note(stage, reply, accepted=accepted)
        await self.push(reply)
        if code == 421 and self.transport is not None:
            self.transport.close()
        return True

    def _note(self, stage: str, answer: str, *, accepted: bool = False) -> None:
        self._room.inbox.note("smtp", stage, answer, accepted=accepted)

    def _check_account(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        account = self._room.account
        right = (
            account is not None
            and isinstance(data, LoginPassword)
            and (data.login, data.password) == (account.user.encode(), account.password.encode())
        )
        if not right:
            self._note("auth", "535 5.7.8 Authentication credentials invalid")
        return AuthResult(success=right, handled=False, auth_data=data)
