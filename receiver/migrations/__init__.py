"""Alembic's scripts: how the outbox's tables came to be what they are, and how older ones follow."""

from __future__ import annotations

import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

__all__ = ["revisions", "upgrade"]


def upgrade(connection: Connection) -> None:
    """Runs what is missing, on the connection and inside its transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def revisions() -> list[str]:
    """Every one that this program knows, the newest first."""
    return [one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).parent).replace("%", "%%"))
    return config
