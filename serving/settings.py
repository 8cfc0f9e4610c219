"""Layered settings: flag, environment, `.env`, file, default. Every error names its place and what is allowed there."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SecretStr, ValidationError

__all__ = [
    "CommaSeparated",
    "ConfigError",
    "Duration",
    "Env",
    "Settings",
    "environment_names",
    "load",
    "parse_duration",
]

Location = tuple[str | int, ...]


class ConfigError(Exception):
    """The settings cannot be used. `problems` holds one line each, with file and line or the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Env:
    """Marks a field with the environment variable that it is read from; a secret's `NAME_FILE` is read as well."""

    name: str


class Settings(BaseModel):
    """Base of every settings model, nested ones too: frozen, unknown keys refused, values kept out of errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_LONGEST_SECONDS = 100 * _UNITS["y"]  # so that now minus a duration is a date still
_DURATION = re.compile(r"(?:\d+(?:y|w|d|h|ms|m|s))+")
_PART = re.compile(r"(\d+)(ms|y|w|d|h|m|s)")


def parse_duration(value: object) -> object:
    """A Prometheus duration (`15s`, `1h30m`, `250ms`, 0) as a timedelta; anything else raises ValueError."""
    if isinstance(value, timedelta):
        return value
    seconds: float = math.inf
    if value in (0, "0") and not isinstance(value, bool):  # no other number goes without its unit, as in Prometheus
        seconds = 0
    elif isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if seconds > _LONGEST_SECONDS:
        raise ValueError("write a duration such as 15s, 5m, 2h or 1d")
    return timedelta(seconds=seconds)


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(lambda value: f"{value.total_seconds():g}s")
]
CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]

T = TypeVar("T", bound=Settings)


@dataclass
class _Layers:
    """The merged raw values, and for each where it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Location, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, path: Location, value: object, origin: str) -> None:
        target: Any = self.values
        for key in path[:-1]:
            if not isinstance(target.get(key), dict):
                if target.get(key) is not None:
                    what = ".".join(map(str, path[: path.index(key) + 1]))
                    self.problems.append(f"{self.origin(path)}: {what}: {_MESSAGES['model_type']}")
                target[key] = {}
            target = target[key]
        target[path[-1]] = value
        self.origins = {place: text for place, text in self.origins.items() if place[: len(path)] != path}
        self.origins[path] = origin

    def origin(self, path: Location) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "settings"


def load(
    model: type[T],
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str],
    config_file: Path | None = None,
    dotenv: Path | None = None,
) -> T:
    """Reads `model` from its layers; the first of flag, environment, `.env`, file, default that has a value wins.

    `flags` maps a dotted field path (`smtp.port`) to a value; None means not given. So does an empty environment
    variable. Raises ConfigError with every problem found, not only the first.
    """
    layers = _Layers()
    if config_file is not None:
        _read_file(layers, config_file, model)
    if dotenv is not None and dotenv.is_file():
        _read_environment(layers, model, _read_dotenv(layers, dotenv), str(dotenv))
    _read_environment(layers, model, environ, "environment")
    for name, value in (flags or {}).items():
        if value is not None:
            layers.put(tuple(name.split(".")), value, f"flag for {name}")
    if layers.problems:
        raise ConfigError(layers.problems)
    try:
        return model.model_validate(layers.values)
    except ValidationError as error:
        raise ConfigError([_describe(problem, layers, model) for problem in error.errors()]) from None


def environment_names(model: type[BaseModel]) -> dict[str, Location]:
    """Every environment variable that `model` reads, with the path of its field."""
    return {name: path for path, name, _ in _environment_fields(model)}


def _read_dotenv(layers: _Layers, path: Path) -> dict[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        layers.problems.append(f"{path}: cannot be read: {_reason(error)}")
        return {}


def _reason(error: OSError | UnicodeDecodeError) -> str | None:
    return error.strerror if isinstance(error, OSError) else "not UTF-8 text"


def _candidates(annotation: Any) -> Iterator[Any]:
    """The types behind Optional, Union and Annotated."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _candidates(typing.get_args(annotation)[0])
    elif origin is typing.Union or origin is UnionType:
        for argument in typing.get_args(annotation):
            yield from _candidates(argument)
    else:
        yield annotation


def _nested(annotation: Any) -> type[BaseModel] | None:
    for candidate in _candidates(annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _element(annotation: Any) -> Any:
    """What a list, tuple or table holds; None where the annotation is no container."""
    for candidate in _candidates(annotation):
        if typing.get_origin(candidate) in {list, tuple, dict}:
            arguments = [argument for argument in typing.get_args(candidate) if argument is not Ellipsis]
            return arguments[-1] if arguments else None
    return None


def _is_secret(annotation: Any) -> bool:
    return any(candidate is SecretStr for candidate in _candidates(annotation))


def _environment_fields(model: type[BaseModel], path: Location = ()) -> Iterator[tuple[Location, str, bool]]:
    for name, info in model.model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Env):
                yield (*path, name), mark.name, _is_secret(info.annotation)
        inner = _nested(info.annotation)
        if inner is not None:
            yield from _environment_fields(inner, (*path, name))


def _read_environment(layers: _Layers, model: type[BaseModel], environ: Mapping[str, str], origin: str) -> None:
    for path, name, secret in _environment_fields(model):
        place = name if origin == "environment" else f"{origin}: {name}"
        if environ.get(name):
            layers.put(path, environ[name], place)
        elif secret and environ.get(f"{name}_FILE"):
            text = _read_secret(layers, Path(environ[f"{name}_FILE"]), f"{place}_FILE")
            if text is not None:
                layers.put(path, text, f"{place}_FILE")


def _read_secret(layers: _Layers, path: Path, place: str) -> str | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        layers.problems.append(f"{place}: cannot read {path}: {_reason(error)}")
        return None
    if not text:
        layers.problems.append(f"{place}: {path} is empty")
    return text


def _read_file(layers: _Layers, path: Path, model: type[BaseModel]) -> None:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        layers.problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError:
        layers.problems.append(f"{path}: not UTF-8 text")
        return
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        layers.problems.append(f"{path}{line}: not valid YAML: {error.problem or error.context}")
        return
    except yaml.YAMLError as error:
        layers.problems.append(f"{path}: not valid YAML: {str(error).splitlines()[0]}")
        return
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        layers.problems.append(f"{path}:{node.start_mark.line + 1}: expected settings as `name: value` lines")
        return

    def place(inner: yaml.Node) -> str:
        return f"{path}:{inner.start_mark.line + 1}"

    try:
        layers.values = _plain(node, (), layers, place, model)
    except yaml.YAMLError as error:  # a tag that safe YAML does not know, an unhashable key
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        layers.problems.append(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}")


def _plain(node: yaml.Node, path: Location, layers: _Layers, place: Callable[[yaml.Node], str], annotation: Any) -> Any:
    """The node's plain value; notes each place, refuses a key given twice, reads `X_file` where X is a secret."""
    layers.origins.setdefault(path, place(node))
    if isinstance(node, yaml.SequenceNode):
        element = _element(annotation)
        return [_plain(item, (*path, index), layers, place, element) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    _merge(node)
    model = _nested(annotation)
    fields = model.model_fields if model is not None else {}
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = str(key_node.value)
        secret = fields.get(name.removesuffix("_file")) if name.endswith("_file") and name not in fields else None
        file_of_secret = secret is not None and _is_secret(secret.annotation)
        if file_of_secret:
            name = name.removesuffix("_file")
        if name in result:
            layers.problems.append(f"{place(key_node)}: {name} is given twice")
        layers.origins[(*path, name)] = place(key_node)
        if file_of_secret:
            whole = ".".join(map(str, (*path, f"{name}_file")))
            result[name] = _read_secret(layers, Path(str(value_node.value)), f"{place(key_node)}: {whole}")
        else:
            inner = fields[name].annotation if name in fields else _element(annotation)
            result[name] = _plain(value_node, (*path, name), layers, place, inner)
    return result


def _merge(node: yaml.MappingNode) -> None:
    """Takes in what the merge key `<<` names; what the mapping says itself takes its place."""
    own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
    _SCALARS.flatten_mapping(node)  # puts the others before its own
    others = {str(key.value): (key, value) for key, value in node.value[: len(node.value) - len(own)]}
    said = {str(key.value) for key, _ in own}
    node.value = [*(pair for name, pair in others.items() if name not in said), *own]


def _scalar(node: yaml.Node) -> Any:
    try:
        return _SCALARS.construct_object(node, deep=True)
    except ValueError:  # 2026-13-01 looks like a date: whoever wants one says what is wrong with it
        return node.value


class _Scalars(yaml.SafeLoader):
    """Builds scalars of nodes that are already composed."""

    def __init__(self) -> None:
        super().__init__("")


_SCALARS = _Scalars()


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


# In the words of the file rather than of Python. YAML reads 0123 without quotation marks as a number in base 8.
_MESSAGES = {
    "string_type": 'expected text: write it between quotation marks, as in "010"',
    "tuple_type": "expected a list, as in [a, b]",
    **dict.fromkeys(("dict_type", "model_type"), "expected settings as `name: value` lines"),
}


def _describe(problem: Any, layers: _Layers, model: type[BaseModel]) -> str:
    # pydantic puts marks of its own (a union's member, a function's name) into loc; people know only the fields
    location = tuple(part for part in problem["loc"] if not (isinstance(part, str) and re.search(r"[\[\]()]", part)))
    name = ".".join(str(part) for part in location)
    message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "extra_forbidden":
        owner: Any = model
        for part in location[:-1]:
            fields = inner.model_fields if (inner := _nested(owner)) is not None else {}
            owner = fields[str(part)].annotation if str(part) in fields else _element(owner)
        inner = _nested(owner)
        allowed = f"; allowed here: {', '.join(sorted(_keys(inner)))}" if inner is not None else ""
        message = f"unknown setting{allowed}"
    return ": ".join([layers.origin(location), *([name] if name else []), message])
