"""Dispatches: how many there are, how many are under way, late, and how far they go."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

from exporter.tables import Gauge, Table, count, label, mean

__all__ = ["dispatches"]

DRAFT, CONFIRMED, IN_PROGRESS, COMPLETED, CANCELLED = STATUSES = (
    "DRAFT",
    "CONFIRMED",
    "IN_PROGRESS",
    "COMPLETED",
    "CANCELLED",
)


def dispatches(overdue_after: timedelta, timezone: ZoneInfo) -> Table:
    """The table `dispatches`; its day is that of `timezone`, and lateness begins `overdue_after` past midnight."""
    grace = f", which begins {label(overdue_after)} after midnight" if overdue_after else ""
    return Table(
        "dispatches",
        STATUSES,
        (
            Gauge(
                "coldchain_dispatches",
                "Dispatches created within the window, by present status. Those dated in the future are in no window.",
                count(),
                by=("window", "status"),
            ),
            Gauge(
                "coldchain_dispatches_active",
                "Dispatches CONFIRMED or IN_PROGRESS, whenever created.",
                count(),
                status=(CONFIRMED, IN_PROGRESS),
            ),
            Gauge(
                "coldchain_dispatches_overdue",
                f"Dispatches IN_PROGRESS with a dispatch_date before today ({timezone.key}){grace}.",
                count(),
                status=(IN_PROGRESS,),
                where="dispatch_date < :today",
            ),
            Gauge(
                "coldchain_dispatches_distance_meters_mean",
                "Mean distance of the dispatches created within the window that have one; absent when none.",
                mean("total_distance_km", scale=1000),
                by=("window",),
            ),
        ),
        moments={"today": lambda now: (now - overdue_after).astimezone(timezone).date()},
    )
