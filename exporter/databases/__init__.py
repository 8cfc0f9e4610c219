"""The databases that can be watched, one file a kind: how each is opened, bounded in time, and understood."""

from __future__ import annotations

from exporter.databases.base import Columns, DatabaseError, Dialect, Failure, Reader
from exporter.databases.shared import CONNECTIONS, Shared, SharedReader
from exporter.databases.urls import dialect_for, open_reader, parse_url

__all__ = [
    "CONNECTIONS",
    "Columns",
    "DatabaseError",
    "Dialect",
    "Failure",
    "Reader",
    "Shared",
    "SharedReader",
    "dialect_for",
    "open_reader",
    "parse_url",
]
