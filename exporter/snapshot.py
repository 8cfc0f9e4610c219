"""What every source last found, how old it is, and whether it counts: the one value that all answers come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from exporter.families import Family
from exporter.limits import Thresholds
from exporter.settings import ExporterSettings

__all__ = ["Board", "Snapshot", "SourceState"]

HANGING_SECONDS = 1.0
"""Past its time-out by more than this, a look was waiting for a frozen server and not loading it."""

HANGS_HINT = "is it frozen, or the network dead?"

WITHHELD_WHEN_DOWN = frozenset({"database"})
"""Sources whose last figure says nothing while they fail."""


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
    looked_at: datetime | None = None
    """When the last look that ended began."""
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

    def shown(self, now: float) -> tuple[Family, ...] | None:
        """What may be shown of it; None where that is nothing."""
        shown = self.fresh(now) and (self.name not in WITHHELD_WHEN_DOWN or self.up(now))
        return self.families if shown else None

    def failure(self, now: float) -> tuple[str, str] | None:
        """The error of the last look, or of the one that hangs, and what to do about it; None where there is none."""
        if self.overdue_at is not None and now >= self.overdue_at:
            return "no answer within the time-out", HANGS_HINT if now >= self.overdue_at + HANGING_SECONDS else ""
        return None if self.error is None else (self.error, self.hint)

    def trouble(self, now: float) -> str | None:
        """Why it has nothing to show, or fails at present; None where all is well."""
        if failure := self.failure(now):
            error, hint = failure
            return f"{error} ({hint})" if hint else error
        if self.duration is None:
            return "not looked at yet"
        return None if self.fresh(now) else "what was found is too old"

    def handed_on(self, interval: float, timeout: float, now: float) -> SourceState:
        """To the source that takes its place, of other settings: whether it works, but nothing of what it found."""
        begun = SourceState(self.name, interval, timeout)
        up = self.up(now)
        if up is None:
            return begun
        error, hint = self.failure(now) or (None, "")
        return replace(
            begun,
            succeeded_at=self.succeeded_at,
            looked_at=self.looked_at,
            duration=self.timeout if self.duration is None else self.duration,
            error=error,
            hint=hint,
        )


@dataclass(frozen=True)
class Snapshot:
    """All sources at one time, with the settings that they are judged by."""

    states: Mapping[str, SourceState] = field(default_factory=lambda: MappingProxyType({}))
    settings: ExporterSettings = field(default_factory=ExporterSettings)
    process: tuple[Family, ...] = ()
    """Of the exporter's own process."""
    reload_successful: bool = True

    @property
    def thresholds(self) -> Thresholds:
        """The limits in force."""
        return self.settings.thresholds

    @property
    def looked_at(self) -> datetime | None:
        """When the latest of the looks that it tells of began; None before the first has ended."""
        return max((state.looked_at for state in self.states.values() if state.looked_at is not None), default=None)

    def shown(self, source: str, now: float) -> tuple[Family, ...] | None:
        """What may be shown of a source; None where that is nothing, or the source is off."""
        state = self.states.get(source)
        return state.shown(now) if state is not None else None


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
