"""The shipped file and the reference say what the code says: every setting, metric, door and state."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from receiver import audiences, settings
from receiver.app import _STATES, create_app
from receiver.service import Receiver
from receiver.settings import ReceiverSettings
from serving.reload import Reload
from serving.settings import Env
from tests.receiver.test_audiences import ENVIRON

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy/receiver/receiver.yaml"
README = ROOT / "receiver/README.md"
COMMENTED = re.compile(r"^( *)#((?:(?:  )+)?[^\s#].*)$", re.MULTILINE)  # a setting; a sentence has one space


def inner(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation: of a table's or a list's entries too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in typing.get_args(annotation) if (found := inner(argument))), None)


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any, str | None]]:
    """Each setting's path, its default, and the environment variable it is read from."""
    for name, info in model.model_fields.items():
        place = f"{path}{info.alias or name}"
        nested = inner(info.annotation)
        variable = next((mark.name for mark in info.metadata if isinstance(mark, Env)), None)
        origin = typing.get_origin(info.annotation)
        mark = ".*" if origin is dict else "[]" if origin is tuple and nested is not None else ""
        default = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        if nested is None or mark:
            yield place, default, variable
        if nested is not None and nested is not model and nested.__name__ != "Matcher":
            yield from fields(nested, f"{place}{mark}.")


FIELDS = {place: (default, variable) for place, default, variable in fields(ReceiverSettings)}


def shown(value: Any) -> str:
    """A default as the reference writes it."""
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    if isinstance(value, timedelta):
        return f"`{duration(value)}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# The shipped file


def test_shipped_file_loads_as_it_is() -> None:
    found = settings.load(environ=ENVIRON, config_file=SHIPPED, dotenv=None)
    assert list(audiences.warnings(found)) == []
    routing = audiences.routing(found)
    assert routing.default.audiences == ("시스템 관리자",)
    assert [(str(route.matchers[0]), route.audiences) for route in routing.routes] == [
        ('category="business"', ("배차 담당자",))
    ]


def test_shipped_file_loads_without_any_variable() -> None:
    assert settings.load(environ={}, config_file=SHIPPED, dotenv=None).missing["email"] == (
        "SMTP_HOST",
        "ALERT_EMAIL_TO",
    )


def test_shipped_file_shows_the_defaults() -> None:
    found = settings.load(environ={}, config_file=SHIPPED, dotenv=None)
    its_own = {"groups", "routes", "default", "holidays"}
    assert found.model_dump(exclude=its_own) == ReceiverSettings().model_dump(exclude=its_own)


def uncommented(tmp_path: Path) -> Path:
    """The file with every setting in force, its secrets in files."""
    (tmp_path / "secret").write_text("https://hooks.slack.com/services/T/B/x")
    text = COMMENTED.sub(r"\1\2", SHIPPED.read_text(encoding="utf-8"))
    text = re.sub(r"_file: /\S+", f"_file: {tmp_path / 'secret'}", text)
    file = tmp_path / "receiver.yaml"
    file.write_text(text.replace("/etc/coldchain-monitor/templates", str(tmp_path)), encoding="utf-8")
    return file


def test_every_setting_that_is_commented_out_can_be_put_in_force(tmp_path: Path) -> None:
    found = settings.load(environ={}, config_file=uncommented(tmp_path), dotenv=None)
    assert list(audiences.warnings(found)) == []
    assert found.quiet[0].schedule == "야간과 휴일"
    assert found.groups["야간 당직"].on_duty == "야간과 휴일"


def keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in keys(item)}
    if isinstance(value, dict):
        return {str(key).removesuffix("_file") for key in value} | {
            key for item in value.values() for key in keys(item)
        }
    return set()


def test_shipped_file_names_every_setting(tmp_path: Path) -> None:
    there = keys(yaml.safe_load(uncommented(tmp_path).read_text(encoding="utf-8")))
    explained = SHIPPED.read_text(encoding="utf-8")
    ends = {place.rpartition(".")[2].removesuffix("_file") for place in FIELDS}
    assert {name for name in ends - there if not re.search(rf"\b{name}\b", explained)} == set()


# The reference


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the reference."""
    text = README.read_text(encoding="utf-8")
    _, found, after = text.partition(f"\n## {heading}\n")
    assert found, heading
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_reference_has_every_setting_with_its_default_and_variable() -> None:
    documented = {row[0].strip("` |"): (row[1], row[2].strip("` ")) for row in table("Settings")}
    assert documented == {
        place: (shown(default), variable if variable is not None else "")
        for place, (default, variable) in FIELDS.items()
    }


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(ReceiverSettings(database_url=SecretStr(f"sqlite:///{tmp_path}/r.db")), "0")


def test_reference_has_every_metric_with_its_type_and_labels(receiver: Receiver) -> None:
    scraped = receiver.metrics.scrape("", "")[0].decode()
    kinds = dict(re.findall(r"^# TYPE (coldchain_\w+) (\w+)$", scraped, re.MULTILINE))
    documented = {row[0].strip("` |"): row[1] for row in table("Metrics")}
    # known only once there is something to tell
    later = {"coldchain_receiver_heartbeat_timestamp_seconds"}
    assert {name: kind for name, kind in documented.items() if name not in later} == kinds


def test_reference_has_every_door(receiver: Receiver) -> None:
    app = create_app(receiver, reload=Reload(lambda: None))
    doors = {
        f"{method} {route.path}"  # type: ignore[attr-defined] # every route of ours has a path
        for route in app.routes
        for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"})
        if not route.path.startswith("/static")  # type: ignore[attr-defined]
    }
    assert {row[0].strip("` |") for row in table("Doors")} == doors


def test_reference_has_every_state_of_a_delivery() -> None:
    assert [row[0].strip("` |") for row in table("States of a delivery")] == list(_STATES)
