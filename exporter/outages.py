"""Log lines about failing sources: once when a failure begins or changes, once when it is over."""

from __future__ import annotations

import threading

import structlog

__all__ = ["Outages"]

log = structlog.get_logger(__name__)


class Outages:
    """Knows which source fails why. One cause that several sources share, a database that is down, is told once."""

    def __init__(self) -> None:
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()

    def failed(self, source: str, error: str, hint: str, *, connection: bool) -> None:
        """The source fails with this error; `connection` says that it is not the source's own."""
        with self._lock:
            if self._errors.get(source) == error:
                return
            shared = connection and error in self._errors.values()
            self._errors[source] = error
        if shared:
            log.debug("source failed", source=source, error=error)
        elif connection:
            log.warning("database unreachable", error=error, hint=hint)
        else:
            log.warning("source failed", source=source, error=error, **({"hint": hint} if hint else {}))

    def recovered(self, source: str) -> None:
        """The source works."""
        with self._lock:
            error = self._errors.pop(source, None)
            last = error not in self._errors.values()
        if error is not None:
            (log.info if last else log.debug)("source recovered", source=source, error=error)

    def forget(self, source: str) -> None:
        """The source is no more."""
        with self._lock:
            self._errors.pop(source, None)
