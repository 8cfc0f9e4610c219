"""One POST to a peer. Its failures are told without its address, which may be a secret."""

from __future__ import annotations

from typing import Any

import requests

from receiver.channels import DeliveryError

__all__ = ["post"]


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
