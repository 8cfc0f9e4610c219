"""Reading the configuration again, on SIGHUP and `POST /-/reload`; a refused one leaves the old in force."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from serving.settings import ConfigError

__all__ = ["Reload"]

log = structlog.get_logger(__name__)


class Reload:
    """Calls its steps in turn; a step raises ConfigError to refuse, having changed nothing of its own."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._steps: list[Callable[[], object]] = [step]
        self._lock = threading.Lock()
        self.successful = True
        """Whether the last reading was accepted; for `coldchain_config_last_reload_successful`."""

    def surround(self, check: Callable[[], object], take: Callable[[], None]) -> None:
        """Puts `check` before the steps known so far, and `take` after them, when what they have read is in force."""
        self._steps = [check, *self._steps, take]

    def __call__(self) -> None:
        """Raises ConfigError where a step refuses; what was in force stays in force."""
        with self._lock:
            try:
                for step in self._steps:
                    step()
            except ConfigError as error:
                self.successful = False
                problems = "; ".join(error.problems)
                log.error("configuration refused, the old one stays", problems=problems)  # noqa: TRY400 - no traceback
                raise
            self.successful = True
            log.info("configuration read again")
