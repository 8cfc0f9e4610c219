"""Label matchers, written and read as Alertmanager's: `severity="critical"`, `category=~"system|database"`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Matcher", "contradictory", "implied", "parse"]

_MATCHER = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!=|!~|=)\s*(.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SEPARATOR = re.compile(r',(?=(?:[^"\\]|\\.|"(?:[^"\\]|\\.)*")*$)', re.DOTALL)
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_ALTERNATIVES = re.compile(r"[\w -]+(?:\|[\w -]+)*")


@dataclass(frozen=True)
class Matcher:
    """One condition on a label; a label that is not there counts as empty."""

    name: str
    operator: str
    """=, !=, =~ or !~; a regular expression must match the whole value."""
    value: str

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.operator}"{value}"'

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self.takes(labels.get(self.name, ""))

    def takes(self, value: str) -> bool:
        """Whether the label may have this value."""
        found = self._pattern.fullmatch(value) is not None if "~" in self.operator else value == self.value
        return found is not self.operator.startswith("!")

    @cached_property
    def values(self) -> frozenset[str] | None:
        """The only values that it takes, where they can be told: of `=`, and of `=~` with plain alternatives."""
        if self.operator == "=":
            return frozenset({self.value})
        if self.operator == "=~" and _ALTERNATIVES.fullmatch(self.value):
            return frozenset(self.value.split("|"))
        return None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.value)


def parse(text: str) -> tuple[Matcher, ...]:
    """One or more matchers, parted by commas; raises ValueError saying how one is written."""
    whole = text.strip()
    if whole.startswith("{") and whole.endswith("}"):
        whole = whole[1:-1]
    return tuple(_parse(part) for part in _SEPARATOR.split(whole.strip().removesuffix(",")))


def _parse(text: str) -> Matcher:
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(f'{text.strip()!r} is no matcher: write one such as severity="critical", with =, !=, =~ or !~')
    name, operator, value = found.groups()
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise ValueError(f"{text.strip()!r}: the value's quotation marks do not match")
        value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), quoted[1], flags=re.DOTALL)
    elif '"' in value:
        raise ValueError(f'{text.strip()!r}: put the whole value between quotation marks, as in {name}{operator}"…"')
    if "~" in operator:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{text.strip()!r}: not a regular expression: {error}") from None
    return Matcher(name, operator, value)


def implied(matchers: Iterable[Matcher], known: Iterable[Matcher]) -> bool:
    """Whether all that the `known` ones match is certain to match `matchers` too; False where it cannot be told."""
    given = list(known)
    return all(
        any(
            one == matcher
            or (one.name == matcher.name and one.values is not None and all(map(matcher.takes, one.values)))
            for one in given
        )
        for matcher in matchers
    )


def contradictory(matchers: Iterable[Matcher]) -> bool:
    """Whether it is certain that no alert can match all of them."""
    given = list(matchers)
    for one in given:
        others = [other for other in given if other.name == one.name]
        if one.values is not None and not any(all(other.takes(value) for other in others) for value in one.values):
            return True
    return False
