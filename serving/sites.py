"""Whether a web page of somebody else's has a browser ask: with the browser's reach, and its credentials even."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["from_another_site"]


def from_another_site(headers: Mapping[str, str]) -> bool:
    """By what a page cannot keep its browser from saying; programs say nothing of the kind.

    Sec-Fetch-Site is said to https and to localhost alone (W3C, Fetch Metadata), Origin with every POST.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("none", "same-origin")
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower()
