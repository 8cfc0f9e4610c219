"""Tells systemd how the process is, by the protocol of sd_notify(3), for which there is no well-kept library."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify", "watchdog_seconds"]


def notify(state: str) -> None:
    """Sends `state` (`READY=1`, `WATCHDOG=1`, `STOPPING=1`); nothing where nobody asks or listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace
        address = f"\0{address[1:]}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), address)


def watchdog_seconds() -> float | None:
    """How often systemd is to hear of us: twice in its time-out, as sd_watchdog_enabled(3) advises; None: never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
