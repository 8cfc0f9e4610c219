"""The OpenAPI 3.1 description of the JSON API, made of the documents themselves so that the two agree."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from exporter.documents import Alerts, Dashboard, Health, Metrics, Problem

__all__ = ["DEFAULT_PERIOD_HOURS", "LONGEST_PERIOD_HOURS", "PREFIX", "description"]

PREFIX = "/api/v1/monitoring"
LONGEST_PERIOD_HOURS = 168
DEFAULT_PERIOD_HOURS = 24

_DOCUMENTS = (Health, Metrics, Alerts, Dashboard, Problem)

_PERIOD = {
    "name": "period_hours",
    "in": "query",
    "description": "Orders and dispatches created within so many hours. A period that is no window of the settings "
    "is asked of the database, for all callers at once, and kept for some seconds.",
    "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_PERIOD_HOURS, "default": DEFAULT_PERIOD_HOURS},
}


def description(version: str) -> dict[str, Any]:
    """The description, as JSON has it."""
    _, schemas = TypeAdapter.json_schemas(
        [(document.__name__, "serialization", TypeAdapter(document)) for document in _DOCUMENTS],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "coldchain-exporter",
            "version": version,
            "description": "The state of a cold-chain dispatch system for a front end: the same figures and limits as "
            "the gauges of /metrics. Every answer carries an ETag; ask with If-None-Match and get 304 until "
            "something has changed.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"basic": []}],  # where the exporter asks for one
        "paths": {
            f"{PREFIX}/health": _get("health", "System health", "Health"),
            f"{PREFIX}/metrics": _get("metrics", "Orders, dispatches, vehicles, host", "Metrics", _PERIOD),
            f"{PREFIX}/alerts": _get("alerts", "What passes its limit at this moment", "Alerts"),
            f"{PREFIX}/dashboard": _get("dashboard", "Health, figures and alerts in short", "Dashboard"),
        },
        "components": {
            "schemas": schemas["$defs"],
            "headers": {
                "ETag": {"description": "Of this very answer.", "schema": {"type": "string"}},
                "Cache-Control": {"description": "Ask again, each time.", "schema": {"const": "private, no-cache"}},
            },
            "parameters": {
                "If-None-Match": {
                    "name": "If-None-Match",
                    "in": "header",
                    "description": "The ETag of the answer that the caller has.",
                    "schema": {"type": "string"},
                }
            },
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _get(operation: str, summary: str, document: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("ETag", "Cache-Control")}
    responses: dict[str, Any] = {
        "200": {"description": summary, "headers": headers, "content": _content(document)},
        "304": {"description": "The caller has it already.", "headers": headers},
        "401": {"description": "A credential is asked for.", "content": _content("Problem")},
    }
    if parameters:
        responses["422"] = {"description": "A parameter is wrong; `detail` names it.", "content": _content("Problem")}
    return {
        "get": {
            "operationId": operation,
            "summary": summary,
            "parameters": [*parameters, {"$ref": "#/components/parameters/If-None-Match"}],
            "responses": responses,
        }
    }


def _content(document: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{document}"}}}
