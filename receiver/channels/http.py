"""One POST to a peer. Its failures are told without its address, which may be a secret."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

import requests

from receiver.channels import DeliveryError

__all__ = ["Session", "post"]


class Session(requests.Session):
    """Asks the environment for proxies and certificates once a host, not at every message; and no .netrc at all."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _unchanged  # without any, requests looks for the host in .netrc
        self._merged: dict[str, dict[str, Any]] = {}

    def merge_environment_settings(
        self,
        url: str | bytes | None,
        proxies: MutableMapping[str, str] | None,
        stream: bool | None,
        verify: bool | str | None,
        cert: str | tuple[str, str] | None,
    ) -> Any:
        """As requests', of which all but the address is the same at every message here."""
        host = urlsplit(str(url)).netloc
        if host not in self._merged:
            self._merged[host] = dict(super().merge_environment_settings(url, proxies, stream, verify, cert))
        return dict(self._merged[host])


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def post(session: requests.Session, url: str, *, peer: str, seconds: float, **content: Any) -> requests.Response:
    """Whatever the peer answers; raises DeliveryError, `uncertain` where it may have taken what it did not answer."""
    try:
        return session.post(url, timeout=seconds, allow_redirects=False, **content)
    except requests.ConnectTimeout:
        raise DeliveryError(f"{peer} could not be reached in time") from None
    except requests.Timeout:
        raise DeliveryError(f"{peer} did not answer within {seconds:g} s", uncertain=True) from None
    except requests.exceptions.SSLError:
        raise DeliveryError(f"{peer}'s certificate was refused") from None
    except requests.RequestException as error:
        if "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error):  # urllib3's, as the reason
            raise DeliveryError(f"{peer} could not be reached") from None
        raise DeliveryError(f"{peer} closed the connection without an answer", uncertain=True) from None
