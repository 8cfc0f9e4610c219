"""The receiver's threads, none of which ends by a fault: a channel that nobody serves looks like one that is idle."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

__all__ = ["undying"]

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0


def undying(name: str, work: Callable[[], None], stopping: threading.Event) -> threading.Thread:
    """A thread that is still to be started; it begins `work` anew after whatever that raises, until it is to stop."""

    def run() -> None:
        while True:
            try:
                return work()
            except Exception:  # the loop that must not die
                log.exception("fault in the receiver, its work is begun anew", thread=name)
            if stopping.wait(_PAUSE_SECONDS):
                return None

    return threading.Thread(target=run, name=name, daemon=True)
