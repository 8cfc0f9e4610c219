"""The reference and the shipped file say what the code says: every setting, metric and door."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from exporter.app import create_app
from exporter.collector import Collector
from exporter.settings import ExporterSettings
from exporter.snapshot import Board, Snapshot
from serving.reload import Reload
from serving.settings import Env, load
from tests.exporter.awkward import NOW, Site, fill
from tests.exporter.running import running
from tests.exporter.test_exact import sqlite_site  # noqa: F401 - a fixture
from tests.waiting import until

ROOT = Path(__file__).parents[2]
README = ROOT / "exporter/README.md"
SHIPPED = ROOT / "deploy/exporter/exporter.yaml"


def inner(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation: of a table's or a list's entries too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in typing.get_args(annotation) if (found := inner(argument))), None)


def fields(model: type[BaseModel], path: str, defaults: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Each setting's path, its default, and the environment variable that it is read from."""
    for name, info in model.model_fields.items():
        place = f"{path}{name}"
        nested = inner(info.annotation)
        variable = next((mark.name for mark in info.metadata if isinstance(mark, Env)), None)
        origin = typing.get_origin(info.annotation)
        mark = ".*" if origin is dict else "[]" if origin is tuple and nested is not None else ""
        default = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        if defaults is not None:
            default = getattr(defaults, name)
        if nested is None or mark:
            yield place, default, variable
        if nested is not None:
            yield from fields(nested, f"{place}{mark}.", default if isinstance(default, nested) else None)


FIELDS = {place: (default, variable) for place, default, variable in fields(ExporterSettings, "", ExporterSettings())}


def shown(value: Any) -> str:
    """A default as the reference writes it."""
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}, ""):
        return "–"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(written, value))}]`"
    return f"`{written(value)}`"


def written(value: Any) -> str:
    """A value as the file has it."""
    if isinstance(value, timedelta):
        for unit, size in (("h", 3600), ("m", 60)):
            if value and value % timedelta(seconds=size) == timedelta(0):
                return f"{value // timedelta(seconds=size)}{unit}"
        return f"{value.total_seconds():g}s"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading of the reference, by their first cell."""
    text = README.read_text(encoding="utf-8")
    _, found, after = text.partition(f"\n## {heading}\n")
    assert found, heading
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_reference_has_every_setting_with_its_default_and_variable() -> None:
    documented = {place: (row[0], row[1].strip("`")) for place, row in table("Settings").items()}
    assert documented == {place: (shown(default), variable or "") for place, (default, variable) in FIELDS.items()}


def test_shipped_file_has_the_defaults() -> None:
    assert load(ExporterSettings, environ={}, config_file=SHIPPED) == ExporterSettings()


def test_shipped_file_names_every_setting() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert {place for place in FIELDS if not re.search(rf"\b{place.rpartition('.')[2]}\b", text)} == set()


def test_reference_has_every_metric_with_its_type_and_labels(tmp_path: Path, sqlite_site: Site) -> None:  # noqa: F811
    fill(sqlite_site, NOW)
    sqlite_site.execute("UPDATE orders SET created_at = datetime('now', '-10 minutes'), updated_at = datetime('now')")
    sqlite_site.execute("UPDATE dispatches SET created_at = datetime('now', '-10 minutes')")
    settings = "sources: {host: {interval: 200ms}}\n"
    with running(tmp_path, settings, database_url=sqlite_site.url) as exporter:
        # processor usage needs two looks
        until(lambda: exporter.value("coldchain_host_cpu_usage_ratio") is not None, "every figure is there")
        until(lambda: sum(exporter.up().values()) == 5, "all are up")
        scraped = exporter.get("/metrics").text
    found = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                found[sample.name] = (family.type, ", ".join(f"`{label}`" for label in sorted(sample.labels)))
    documented = {name: (row[0], ", ".join(sorted(row[1].split(", ")))) for name, row in table("Metrics").items()}
    assert documented == found


def test_reference_has_every_door() -> None:
    board = Board(Snapshot())
    app = create_app(board, Collector(board, 5), version="1", reload=Reload(lambda: None), start=lambda: None)
    doors = {
        f"{method} {route.path}"  # type: ignore[attr-defined] # every route of ours has a path
        for route in app.routes
        for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"})
        if not route.path.startswith("/static")  # type: ignore[attr-defined]
    }
    assert set(table("Doors")) == doors


def test_the_front_ends_line_is_a_setting_that_works(tmp_path: Path) -> None:
    line = next(line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("cors_origins:"))
    assert load(ExporterSettings, environ={}, config_file=_file(tmp_path, line)).cors_origins
    assert yaml.safe_load(line)


def _file(folder: Path, text: str) -> Path:
    (folder / "exporter.yaml").write_text(text, encoding="utf-8")
    return folder / "exporter.yaml"
