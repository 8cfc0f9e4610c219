"""Alembic's scripts: how the outbox's tables came to be what they are."""
