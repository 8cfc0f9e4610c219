"""The sources, one file each: what is looked at, and the gauges that come of it."""

from __future__ import annotations

from exporter.sources.plan import Plan, Source, plans, tables

__all__ = ["Plan", "Source", "plans", "tables"]
