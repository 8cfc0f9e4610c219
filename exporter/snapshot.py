"""What every source last found, how old it is, and whether it counts: the one value that all answers come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from exporter.families import Family
from exporter.limits import Thresholds

__all__ = ["Board", "Snapshot", "SourceState"]


@dataclass(frozen=True)
class SourceState:
    """One source. Moments are monotonic seconds but for `succeeded_at`."""

    name: str
    interval: float
    """Seconds between two looks, as in force: longer than configured while the source is slow."""
    timeout: float
    families: tuple[Family, ...] = ()
    """Of the last success."""
    succeeded_at: datetime | None = None
    fresh_until: float | None = None
    duration: float | None = None
    """Of the last look that ended, in seconds."""
    error: str | None = None
    """Of the last look that ended; None when it succeeded."""
    hint: str = ""
    running_since: float | None = None
    """When the look began that has not ended yet."""

    @property
    def overdue_at(self) -> float | None:
        """When the look that is running will have taken too long."""
        return None if self.running_since is None else self.running_since + self.timeout

    def up(self, now: float) -> bool | None:
        """Whether the last look succeeded; one that hangs has failed. None before the first has ended or hangs."""
        if self.overdue_at is not None and now >= self.overdue_at:
            return False
        if self.duration is None:
            return None
        return self.error is None

    def fresh(self, now: float) -> bool:
        """Whether what it last found may still be shown as today's."""
        return self.fresh_until is not None and now < self.fresh_until


@dataclass(frozen=True)
class Snapshot:
    """All sources at one time, with the limits that they are judged by."""

    states: Mapping[str, SourceState] = field(default_factory=lambda: MappingProxyType({}))
    thresholds: Thresholds = field(default_factory=Thresholds)
    process: tuple[Family, ...] = ()
    """Of the exporter's own process."""
    reload_successful: bool = True

    def family(self, name: str, now: float) -> Family | None:
        """A family by its name, while its source is fresh."""
        for state in self.states.values():
            if state.fresh(now):
                for family in state.families:
                    if family.name == name:
                        return family
        return None


class Board:
    """Where the threads put what they find; every reader takes the whole snapshot at once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """As of now."""
        return self._snapshot

    def change(self, change: Callable[[Snapshot], Snapshot]) -> None:
        """Replaces the snapshot by what `change` makes of it."""
        with self._lock:
            self._snapshot = change(self._snapshot)

    def change_state(self, name: str, change: Callable[[SourceState], SourceState]) -> None:
        """Replaces one source's state."""

        def apply(snapshot: Snapshot) -> Snapshot:
            if name not in snapshot.states:  # its source was switched off meanwhile
                return snapshot
            return replace(snapshot, states=MappingProxyType({**snapshot.states, name: change(snapshot.states[name])}))

        self.change(apply)
