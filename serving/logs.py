"""Logs as Prometheus's tools write them: logfmt or JSON lines on stderr, ours and the libraries' alike."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

__all__ = ["LEVELS", "configure"]

LEVELS = ("debug", "info", "warn", "error")


def configure(level: str, style: Literal["logfmt", "json"]) -> None:
    """Sends every log line of the process to stderr; `level` is one of LEVELS."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.ExceptionRenderer() if style == "logfmt" else structlog.processors.dict_tracebacks,
        structlog.processors.EventRenamer("msg"),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.LogfmtRenderer(key_order=["ts", "level", "logger", "msg"], bool_as_flag=False)
        if style == "logfmt"
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level={"warn": "WARNING"}.get(level, level.upper()), force=True)
    if level != "debug":  # urllib3 and uvicorn tell at these levels what our own modules say better
        for chatty in ("urllib3", "uvicorn.error", "alembic", "httpx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
