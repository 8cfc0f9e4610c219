"""Which names a site's own gauges and labels may have: Prometheus's rules, and what the exporter uses itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["OWN_PREFIXES", "OWN_SOURCES", "gauge_problem", "label_problem", "source_problem"]

OWN_PREFIXES = (
    "coldchain_alert_", "coldchain_config_", "coldchain_database_", "coldchain_dispatches", "coldchain_exporter_",
    "coldchain_host_", "coldchain_orders", "coldchain_receiver_", "coldchain_source_", "coldchain_vehicles",
    "process_", "python_", "scrape_",
)  # fmt: skip
"""What names of ours begin with, now or later."""

OWN_SOURCES = ("host", "database", "orders", "dispatches", "vehicles")

# what a name must not match, and why; https://prometheus.io/docs/concepts/data_model/ has the characters. The suffixes
# are those that promtool and OpenMetrics keep for counters, histograms and summaries
_CHARACTERS = r"(?![a-zA-Z_][a-zA-Z0-9_]*\Z).*"
_GAUGES = (
    (r".*:.*", "colons are for recording rules; use _ instead"),
    (_CHARACTERS, "a metric's name is of letters, digits and _, and begins with no digit"),
    (r"__.*", "names that begin with __ are Prometheus's own"),
    (r"(up|ALERTS|ALERTS_FOR_STATE)", "Prometheus makes series of this name itself"),
    (
        rf"({'|'.join(OWN_PREFIXES)}).*",
        "names that begin with {0} are the exporter's own; begin it with your firm's name",
    ),
    (
        r".*(_total|_count|_sum|_bucket|_created)",
        "{0} ends names of counters, histograms and summaries, and this is a gauge; leave it out",
    ),
)
_LABELS = (
    (_CHARACTERS, "a label's name is of letters, digits and _, and begins with no digit; rename it by AS in the SQL"),
    (r"__.*", "labels that begin with __ are Prometheus's own"),
    (r"(job|instance)", "Prometheus sets {0} itself; rename it by AS in the SQL"),
    (r"(le|quantile)", "{0} belongs to histograms and summaries; rename it by AS in the SQL"),
)
_SOURCES = (
    (_CHARACTERS, "a query's name is of letters, digits and _, and begins with no digit"),
    (rf"({'|'.join(OWN_SOURCES)})", "this is a source of the exporter's own; call the query otherwise"),
)


def gauge_problem(name: str) -> str | None:
    """Why a gauge may not be called so, with a hint; None where it may."""
    return _problem(_GAUGES, name)


def label_problem(name: str) -> str | None:
    """Why a label may not be called so, with a hint; None where it may."""
    return _problem(_LABELS, name)


def source_problem(name: str) -> str | None:
    """Why a query may not be called so, with a hint; None where it may."""
    return _problem(_SOURCES, name)


def _problem(rules: Sequence[tuple[str, str]], name: str) -> str | None:
    for pattern, words in rules:
        if found := re.fullmatch(pattern, name, re.DOTALL):
            return f"{name}: {words.format(*found.groups())}"
    return None
