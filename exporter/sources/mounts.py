"""Mounted file systems and how full they are; a dead network mount costs its own figures and nothing else."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mount", "Space", "Spaces", "mounts"]


@dataclass(frozen=True)
class Mount:
    """A line of `mountinfo`: the device as major:minor, the folder of it that is mounted, and where."""

    device: str
    root: str
    mountpoint: str
    type: str


@dataclass(frozen=True)
class Space:
    """Bytes, as `df` counts them: what only root may still use is neither used nor available."""

    size: int
    used: int
    available: int

    @property
    def usage_ratio(self) -> float:
        """used / (used + available), as `df` shows it; 0 for a file system without room for anything."""
        return self.used / (self.used + self.available) if self.used + self.available else 0.0


def mounts(procfs: Path) -> list[Mount]:
    """What is mounted, in the order of mounting. Under the host's procfs process 1 sees what the host sees.

    Raises OSError where procfs has no mountinfo.
    """
    try:
        text = (procfs / "1" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not there, or hidden from other users (hidepid)
        text = (procfs / "self" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return list(_parse(text))


def _parse(text: str) -> Iterator[Mount]:
    for line in text.split("\n"):  # splitlines() ends lines at more than the kernel does
        # proc(5): id parent major:minor root mountpoint options [optional…] - type source superoptions
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) >= 6 and rest:
            yield Mount(parts[2], _unescape(parts[3]), _unescape(parts[4]), rest.split(" ")[0])


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def real(found: Sequence[Mount], exclude_mountpoints: str, exclude_types: str) -> list[Mount]:
    """The real file systems, each once: bind mounts and overlays show the space of another one again."""
    visible = {mount.mountpoint: mount for mount in found}  # the last one mounted over a point hides the others
    once: dict[str, Mount] = {}
    for mount in sorted(
        visible.values(), key=lambda mount: (mount.mountpoint != "/", mount.root != "/", len(mount.mountpoint))
    ):
        if re.search(exclude_types, mount.type) or re.search(exclude_mountpoints, mount.mountpoint):
            continue
        if mount.type == "overlay" and mount.mountpoint != "/":  # a container's own root is all that it has
            continue
        once.setdefault(mount.device, mount)
    return sorted(once.values(), key=lambda mount: mount.mountpoint)


def measure(path: str) -> Space | None:
    """The space at `path`; None for what is no file system of its own to look at. Blocks on a dead network mount."""
    if not stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - a plain call, patient threads call nothing else
        return None  # a single file, bound over another as container engines do with /etc/hosts
    found = os.statvfs(path)
    if found.f_blocks == 0:
        return None
    return Space(
        size=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        available=found.f_bavail * found.f_frsize,
    )


class Spaces:
    """Asks every mount in a thread of its own and waits a little; one that hangs is never asked twice at once."""

    def __init__(self, measure: Callable[[str], Space | None] = measure) -> None:
        self._measure = measure
        self._hanging: dict[str, threading.Thread] = {}

    def measure(self, paths: Sequence[str], patience: float) -> dict[str, Space]:
        """By path; without those that fail or do not answer within `patience` seconds for all together."""
        found: dict[str, Space] = {}
        asked: dict[str, threading.Thread] = {}
        self._hanging = {path: thread for path, thread in self._hanging.items() if thread.is_alive()}

        def ask(path: str) -> None:
            try:
                space = self._measure(path)
            except OSError:
                return
            if space is not None:
                found[path] = space

        for path in paths:
            if path not in self._hanging:
                asked[path] = threading.Thread(target=ask, args=(path,), name=f"statvfs {path}", daemon=True)
                asked[path].start()
        deadline = time.monotonic() + patience
        for path, thread in asked.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._hanging[path] = thread
        return {path: found[path] for path in asked if path in found and path not in self._hanging}

    @property
    def hanging(self) -> frozenset[str]:
        """The paths that do not answer at present."""
        return frozenset(self._hanging)
