"""Log lines about failing sources: once when a failure begins or changes, once when it is over."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import structlog

__all__ = ["Outages"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Failure:
    error: str
    connection: bool
    """Whether it is the database's rather than the source's own: every source has it then, and one line tells it."""


class Outages:
    """Knows which source fails why."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}
        self._lock = threading.Lock()

    def failed(self, source: str, error: str, hint: str, *, connection: bool) -> None:
        """The source failed with this error; `connection` where that is the database's way to fail for everybody."""
        failure = _Failure(error, connection)
        with self._lock:
            if self._failures.get(source) == failure:
                return
            known = connection and failure in self._failures.values()
            self._failures[source] = failure
        words = {"error": error, "hint": hint} if hint else {"error": error}
        if known:
            log.debug("source failed", source=source, error=error)
        elif connection:
            log.warning("database unreachable", **words)
        else:
            log.warning("source failed", source=source, **words)

    def known(self, source: str, error: str) -> bool:
        """Whether the source fails with this error already."""
        with self._lock:
            failure = self._failures.get(source)
        return failure is not None and failure.error == error

    def recovered(self, source: str) -> None:
        """The source works."""
        with self._lock:
            failure = self._failures.pop(source, None)
            shared = failure is not None and failure.connection
            others = any(other.connection for other in self._failures.values())
        if failure is None:
            return
        if not shared:
            log.info("source recovered", source=source)
        elif others:
            log.debug("source recovered", source=source)
        else:
            log.info("database reachable again")

    def forget(self, source: str) -> None:
        """The source is no more."""
        with self._lock:
            self._failures.pop(source, None)
