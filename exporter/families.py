"""Families as values: what a source found, before it becomes bytes for Prometheus or JSON for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """One metric with its samples, each keyed by the values of `labels` in their order."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    samples: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    type: Literal["gauge", "counter"] = "gauge"
    exported: bool = True
    """False for a fact that only the JSON API shows."""

    def value(self, *labels: str) -> float | None:
        """The sample with these label values; None where there is none."""
        return self.samples.get(labels)


def family_of(families: Sequence[Family], name: str) -> Family:
    """The family of that name; an empty one where there is none."""
    return next((family for family in families if family.name == name), Family(name, ""))
