"""Takes notifications and delivers them by email, Slack and SMS. `NotificationService` is the same for Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.notification_service import NotificationService

__all__ = ["NotificationService"]


def __getattr__(name: str) -> object:
    if name == "NotificationService":
        from receiver.notification_service import NotificationService  # noqa: PLC0415 - every other import is spared it

        return NotificationService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
