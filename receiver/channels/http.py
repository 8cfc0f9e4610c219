"""One POST to a peer. Its failures are told without its address, which may be a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from receiver.channels import DeliveryError

__all__ = ["Answer", "Peer", "is_address"]


def is_address(text: str) -> bool:
    """Whether a request can be sent there: http or https, and a host."""
    try:
        parts = urlsplit(text)
        whole = not re.search(r"\s", text)
        return whole and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        return False


@dataclass(frozen=True)
class Answer:
    """What a peer answered, whatever it was."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class _Way:
    """How an address is reached."""

    pool: HTTPConnectionPool
    target: str
    headers: Mapping[str, str]


class Peer(HTTPAdapter):
    """Connections that are kept open, by the environment's proxies and certificates as requests finds them.

    What requests makes ready at every message, half of its work, is made ready once for each address.
    """

    def __init__(self, name: str, *, seconds: float) -> None:
        """`name` is what errors call it; `seconds` are for the connection, and again for each piece of the answer."""
        super().__init__()
        self._name = name
        self._seconds = seconds
        self._ways: dict[str, _Way] = {}

    def post(self, url: str, body: bytes, content_type: str) -> Answer:
        """Raises DeliveryError, `uncertain` where the peer may have taken what it did not answer."""
        try:
            way = self._ways.get(url) or self._find(url)
            response = way.pool.urlopen(
                "POST",
                way.target,
                body,
                {**way.headers, "Content-Type": content_type},
                retries=False,
                redirect=False,
                assert_same_host=False,  # a proxy's pool has another
                timeout=self._seconds,
            )
        except (HTTPError, requests.RequestException) as error:
            raise self._failure(error) from None
        return Answer(response.status, response.headers, response.data.decode("utf-8", "replace"))

    def close(self) -> None:
        """Closes what is kept open."""
        self._ways.clear()  # a pool is closed when nobody has it any more
        super().close()

    def _find(self, url: str) -> _Way:
        with requests.Session() as session:
            session.auth = _unchanged  # without any, requests looks for the host in .netrc
            request = session.prepare_request(requests.Request("POST", url))
            found = session.merge_environment_settings(url, {}, None, None, None)
        pool = self.get_connection_with_tls_context(request, found["verify"], found["proxies"], found["cert"])
        try:
            self.cert_verify(pool, url, found["verify"], found["cert"])  # type: ignore[no-untyped-call] # in types-requests
        except OSError:
            raise DeliveryError(f"the certificates to know {self._name} by are not where they should be") from None
        headers = {name: value for name, value in request.headers.items() if name != "Content-Length"}
        self._ways[url] = _Way(cast("HTTPConnectionPool", pool), self.request_url(request, found["proxies"]), headers)
        return self._ways[url]

    def _failure(self, error: Exception) -> DeliveryError:
        if isinstance(error, ProxyError) and isinstance(error.original_error, ConnectionError):
            # urllib3 closes what broke after the request, and then takes it for a proxy that was never reached
            error = ProtocolError(error.original_error)
        words, uncertain = next(
            ((words, uncertain) for kind, words, uncertain in _FAILURES if isinstance(error, kind)),
            ("{name} closed the connection without an answer", True),
        )
        return DeliveryError(words.format(name=self._name, seconds=self._seconds), uncertain=uncertain)


_NO_ADDRESS = "the address of {name} or of the proxy cannot be used"
_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (  # the first that fits; whether the peer may have taken it
    (NewConnectionError, "{name} could not be reached", False),
    (ConnectTimeoutError, "{name} could not be reached in time", False),
    (ProxyError, "{name} could not be reached by the proxy", False),
    (SSLError, "{name}'s certificate was refused", False),
    (ReadTimeoutError, "{name} did not answer within {seconds:g} s", True),
    (LocationValueError, _NO_ADDRESS, False),
    (requests.RequestException, _NO_ADDRESS, False),
)


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
