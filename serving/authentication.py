"""Who may ask: basic-auth users of the web configuration or the bearer token, checked before any route."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable

import bcrypt
import structlog
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OPEN_PATHS", "Authentication"]

log = structlog.get_logger(__name__)

REFUSAL_SECONDS = 0.2
"""Before each refusal, so that guessing is slow."""

OPEN_PATHS = frozenset({"/-/healthy", "/-/ready"})

# Checked for unknown users, so that an answer's time does not tell whether a user exists (as exporter-toolkit does).
_NOBODY = b"$2b$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"


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
        """`certified`: nobody gets here without a client certificate that was verified."""
        self.app = app
        self._refused = refused
        self._certified = certified
        self.configure(users, token)

    def configure(self, users: dict[str, str], token: SecretStr | None) -> None:
        """Takes other credentials from now on; what was remembered of the old ones is forgotten."""
        self._users = users
        self._token = token.get_secret_value().encode() if token is not None else None
        self._pepper = secrets.token_bytes(32)
        self._known: set[bytes] = set()

    @property
    def required(self) -> bool:
        """Whether any credential is configured."""
        return bool(self._users) or self._token is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401."""
        if scope["type"] != "http" or not self.required or scope["path"] in OPEN_PATHS:
            if self._certified and scope["type"] == "http":
                scope.setdefault("state", {})["authenticated"] = True
            await self.app(scope, receive, send)
            return
        scheme, _, credential = Headers(scope=scope).get("authorization", "").partition(" ")
        if await self._accepts(scheme.lower(), credential.strip()):
            scope.setdefault("state", {})["authenticated"] = True  # request.state, for a route that asks
            await self.app(scope, receive, send)
            return
        self._refused(scope["path"])
        await asyncio.sleep(REFUSAL_SECONDS)
        client = scope.get("client")
        log.warning("request refused: no valid credential", path=scope["path"], client=client[0] if client else None)
        challenge = 'Basic realm="coldchain", charset="UTF-8"' if self._users else "Bearer"
        response = JSONResponse(
            {"detail": "authentication required: basic user or bearer token"},
            status_code=401,
            headers={"WWW-Authenticate": challenge},
        )
        await response(scope, receive, send)

    async def _accepts(self, scheme: str, credential: str) -> bool:
        if scheme == "bearer":
            return self._token is not None and hmac.compare_digest(credential.encode(), self._token)
        if scheme != "basic" or not self._users:
            return False
        # bcrypt is slow by design: a credential that fits is remembered by a keyed digest, as exporter-toolkit does
        digest = hmac.digest(self._pepper, credential.encode(), hashlib.sha256)
        if digest in self._known:
            return True
        try:
            user, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        stored = self._users.get(user)
        # bcrypt reads 72 bytes at most, and the library refuses more (bcrypt 5.0)
        fits = await run_in_threadpool(
            bcrypt.checkpw, password.encode()[:72], stored.encode() if stored is not None else _NOBODY
        )
        if fits and stored is not None:
            self._known.add(digest)
            return True
        return False
