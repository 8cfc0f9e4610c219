"""Orders: how many came in, how many wait, how fast they are done."""

from __future__ import annotations

from datetime import timedelta

from exporter.tables import Gauge, Table, count, label, mean_seconds, newest, oldest_age

__all__ = ["orders"]

PENDING, ASSIGNED, IN_TRANSIT, DELIVERED, CANCELLED = STATUSES = (
    "PENDING",
    "ASSIGNED",
    "IN_TRANSIT",
    "DELIVERED",
    "CANCELLED",
)


def orders(waiting_after: timedelta) -> Table:
    """The table `orders`; an order waits when it is PENDING for longer than `waiting_after`."""
    return Table(
        "orders",
        STATUSES,
        (
            Gauge(
                "coldchain_orders",
                "Orders created within the window, by present status. Those dated in the future are in no window.",
                count(),
                by=("window", "status"),
            ),
            Gauge(
                "coldchain_orders_24h",
                "Orders created within 24 hours, whichever windows are configured.",
                count(),
                window=timedelta(hours=24),
                exported=False,
            ),
            Gauge(
                "coldchain_orders_waiting",
                f"Orders PENDING for longer than {label(waiting_after)}, whenever created.",
                count(),
                status=(PENDING,),
                where="created_at < :waiting_since",
            ),
            Gauge(
                "coldchain_orders_oldest_waiting_seconds",
                "Age of the oldest PENDING order, 0 when none.",
                oldest_age("created_at"),
                status=(PENDING,),
                where="created_at <= :now",
            ),
            Gauge(
                "coldchain_orders_newest_timestamp_seconds",
                "When the newest order was created, those dated in the future left out; absent when none.",
                newest("created_at"),
                where="created_at <= :now",
            ),
            Gauge(
                "coldchain_orders_processing_seconds_mean",
                "Mean of updated_at - created_at of the orders created within the window and DELIVERED, negative ones "
                "left out; absent when none.",
                mean_seconds("created_at", "updated_at"),
                status=(DELIVERED,),
                where="updated_at >= created_at",
                by=("window",),
            ),
        ),
        moments={"waiting_since": lambda now: now - waiting_after},
    )
