"""Who may ask: basic-auth users of the web configuration or the bearer token, checked before any route."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import bcrypt
import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guessing import Guessing, TooManyGuessesError

__all__ = ["OPEN_PATHS", "Authentication", "Failures"]

log = structlog.get_logger(__name__)

_HASHING_AT_ONCE = 2  # whoever guesses leaves the threads of the pages to others

OPEN_PATHS = frozenset({"/-/healthy", "/-/ready"})


_TOO_MANY = JSONResponse(
    {"detail": "too many attempts from this address: wait until they have been answered"},
    status_code=429,
    headers={"Retry-After": "5"},
)


@dataclass
class Failures:
    """Counts refusals, for a process that has no other use for them."""

    count: int = 0

    def __call__(self, _path: str) -> None:
        self.count += 1


class Authentication:
    """ASGI middleware: 401 for all but OPEN_PATHS unless a credential fits; open where none is configured."""

    def __init__(
        self,
        app: ASGIApp,
        users: dict[str, str],
        token: SecretStr | None,
        refused: Callable[[str], None] = lambda _path: None,
        *,
        certified: bool = False,
    ) -> None:
        self.app = app
        self._refused = refused
        self._guessing = Guessing()
        self._hashing = anyio.CapacityLimiter(_HASHING_AT_ONCE)
        self.configure(users, token, certified=certified)

    def configure(self, users: dict[str, str], token: SecretStr | None, *, certified: bool = False) -> None:
        """Takes other credentials from now on; what was remembered of the old ones is forgotten.

        `certified`: nobody gets here without a client certificate that was verified.
        """
        self._certified = certified
        self._users = users
        self._token = token.get_secret_value().encode() if token is not None else None
        self._pepper = secrets.token_bytes(32)
        self._known: set[bytes] = set()

    def end(self) -> None:
        """Keeps nobody waiting any more; called on the event loop."""
        self._guessing.end()

    @property
    def required(self) -> bool:
        """Whether any credential is configured."""
        return bool(self._users) or self._token is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401, or 429 where too many attempts of the same address wait already."""
        if scope["type"] != "http" or not self.required or scope["path"] in OPEN_PATHS:
            if self._certified and scope["type"] == "http":
                scope.setdefault("state", {})["authenticated"] = True
            await self.app(scope, receive, send)
            return
        scheme, _, credential = Headers(scope=scope).get("authorization", "").partition(" ")
        client = scope["client"][0] if scope.get("client") else ""
        try:
            accepted = await self._accepts(client, scheme.lower(), credential.strip())
        except TooManyGuessesError:
            self._refused(scope["path"])
            await _TOO_MANY(scope, receive, send)
            return
        if accepted:
            scope.setdefault("state", {})["authenticated"] = True  # request.state, for a route that asks
            await self.app(scope, receive, send)
            return
        self._refused(scope["path"])
        log.warning("request refused: no valid credential", path=scope["path"], client=client)
        challenge = 'Basic realm="coldchain", charset="UTF-8"' if self._users else "Bearer"
        response = JSONResponse(
            {"detail": "authentication required: basic user or bearer token"},
            status_code=401,
            headers={"WWW-Authenticate": challenge},
        )
        await response(scope, receive, send)

    async def _accepts(self, client: str, scheme: str, credential: str) -> bool:
        """Raises TooManyGuessesError. A credential that has fitted once is never kept waiting for others' guesses."""
        if not credential:
            return False  # a question, no guess
        # bcrypt is slow by design: a credential that fits is remembered by a keyed digest, as exporter-toolkit does
        known, digest = self._known, hmac.digest(self._pepper, f"{scheme} {credential}".encode(), hashlib.sha256)
        if digest in known:
            return True
        fits = await self._guessing.attempt(client, functools.partial(self._fits, scheme, credential))
        if fits:
            known.add(digest)
        return fits

    async def _fits(self, scheme: str, credential: str) -> bool:
        if scheme == "bearer":
            return self._token is not None and hmac.compare_digest(credential.encode(), self._token)
        if scheme != "basic" or not self._users:
            return False
        try:
            user, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        # an unknown user costs as much as another, so that an answer's time does not tell whether a user exists
        stored = self._users.get(user, next(iter(self._users.values())))
        # bcrypt reads 72 bytes at most, and the library refuses more (bcrypt 5.0)
        check = functools.partial(bcrypt.checkpw, password.encode()[:72], stored.encode())
        fits = await anyio.to_thread.run_sync(check, limiter=self._hashing)
        return fits and user in self._users
