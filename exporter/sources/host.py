"""The host: processors, memory, file systems, network."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import psutil
import structlog

from exporter.families import Family
from exporter.settings import DiskSettings, PathSettings
from exporter.sources.mounts import Space, Spaces, measure, mounts, real

__all__ = ["HostSource"]

log = structlog.get_logger(__name__)

CPU_WINDOW_SECONDS = 15.0
CPU_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
MOUNT_PATIENCE_SECONDS = 1.0


class HostSource:
    """Figures of the machine, or of the host that a container runs on where its procfs and root are given."""

    def __init__(
        self,
        paths: PathSettings,
        disk: DiskSettings,
        *,
        measure: Callable[[str], Space | None] = measure,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._disk = disk
        self._monotonic = monotonic
        self._spaces = Spaces(measure)
        self._silent: frozenset[str] = frozenset()
        self._readings: deque[tuple[float, float, float]] = deque()  # when, busy and all processor seconds

    @property
    def silent(self) -> frozenset[str]:
        """The mountpoints that did not answer at the last look."""
        return self._silent

    def wait(self, seconds: float) -> None:
        """It shares nothing."""

    def collect(self, now: datetime, timeout: float) -> tuple[Family, ...]:  # noqa: ARG002 - the host has but one present
        """Counters in seconds and bytes since boot, gauges in bytes and ratios; raises OSError without a procfs."""
        psutil.PROCFS_PATH = self._paths.procfs  # as psutil documents it for containers
        return (*self._processors(), *self._memory(), *self._file_systems(timeout), *self._network())

    def check(self, now: datetime, timeout: float) -> None:
        """Nothing of it needs a database."""

    def rest(self, seconds: float) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _processors(self) -> tuple[Family, ...]:
        times = psutil.cpu_times()
        modes: dict[str, float] = {mode: getattr(times, mode, 0.0) for mode in CPU_MODES}
        usage = self._usage(modes)
        return (
            Family(
                "coldchain_host_cpu_seconds_total",
                "Processor time spent in each mode since boot, over all processors.",
                ("mode",),
                _by(modes),
                "counter",
            ),
            Family(
                "coldchain_host_cpu_usage_ratio",
                f"Busy share of all processors over the last {CPU_WINDOW_SECONDS:g} seconds, whoever scrapes.",
                samples={} if usage is None else {(): usage},
            ),
            Family("coldchain_host_cpus", "Logical processors.", samples={(): len(psutil.cpu_times(percpu=True))}),
        )

    def _usage(self, modes: Mapping[str, float]) -> float | None:
        """The busy share since the last reading that is as old as the window; None at the first."""
        everything = sum(modes.values())
        busy = everything - modes["idle"] - modes["iowait"]
        now = self._monotonic()
        self._readings.append((now, busy, everything))
        while len(self._readings) > 2 and self._readings[1][0] <= now - CPU_WINDOW_SECONDS:
            self._readings.popleft()
        _, busy_then, everything_then = self._readings[0]
        if everything <= everything_then:
            return None
        # proc(5): iowait may go backwards
        return min(max((busy - busy_then) / (everything - everything_then), 0.0), 1.0)

    def _memory(self) -> tuple[Family, ...]:
        memory = psutil.virtual_memory()
        used = memory.total - memory.available
        return (
            Family("coldchain_host_memory_total_bytes", "Memory of the host.", samples={(): memory.total}),
            Family("coldchain_host_memory_used_bytes", "Memory that is not available.", samples={(): used}),
            Family(
                "coldchain_host_memory_available_bytes",
                "Memory that programs can have without swapping.",
                samples={(): memory.available},
            ),
            Family("coldchain_host_memory_usage_ratio", "used / total.", samples={(): used / memory.total}),
        )

    def _file_systems(self, timeout: float) -> tuple[Family, ...]:
        shown = real(mounts(Path(self._paths.procfs)), self._disk.exclude_mountpoints, self._disk.exclude_types)
        paths = {_readable(mount.mountpoint): self._seen(mount.mountpoint) for mount in shown}
        spaces = self._spaces.measure(list(paths.values()), min(MOUNT_PATIENCE_SECONDS, timeout / 2))
        self._tell_silent({mountpoint for mountpoint, path in paths.items() if path in self._spaces.hanging})
        found = {mountpoint: spaces[path] for mountpoint, path in paths.items() if path in spaces}

        def family(name: str, text: str, figure: Callable[[Space], float]) -> Family:
            return Family(name, text, ("mountpoint",), _by({point: figure(space) for point, space in found.items()}))

        return (
            family("coldchain_host_filesystem_size_bytes", "Size of the file system.", lambda space: space.size),
            family("coldchain_host_filesystem_used_bytes", "Space in use.", lambda space: space.used),
            family(
                "coldchain_host_filesystem_available_bytes",
                "Space that programs of ordinary users can have.",
                lambda space: space.available,
            ),
            family(
                "coldchain_host_filesystem_usage_ratio",
                "used / (used + available), as df counts. A mount that does not answer has no figures.",
                lambda space: space.usage_ratio,
            ),
        )

    def _seen(self, mountpoint: str) -> str:
        """The mount's path as this process sees it."""
        root = self._paths.rootfs.rstrip("/")
        return f"{root}{mountpoint.rstrip('/')}" or "/"

    def _tell_silent(self, silent: set[str]) -> None:
        for mountpoint in sorted(silent - self._silent):
            log.warning("mount does not answer, its figures are left out until it does", mountpoint=mountpoint)
        for mountpoint in sorted(self._silent - silent):
            log.info("mount answers again, or is gone", mountpoint=mountpoint)
        self._silent = frozenset(silent)

    def _network(self) -> tuple[Family, ...]:
        devices = psutil.net_io_counters(pernic=True, nowrap=False)
        return (
            Family(
                "coldchain_host_network_receive_bytes_total",
                "Bytes received since boot.",
                ("device",),
                _by({_readable(name): counters.bytes_recv for name, counters in devices.items()}),
                "counter",
            ),
            Family(
                "coldchain_host_network_transmit_bytes_total",
                "Bytes sent since boot.",
                ("device",),
                _by({_readable(name): counters.bytes_sent for name, counters in devices.items()}),
                "counter",
            ),
        )


def _readable(name: str) -> str:
    r"""The name as a label can hold it: to the kernel it is bytes, and those that are no UTF-8 are written `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _by(figures: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Samples of a family with one label."""
    return {(name,): figure for name, figure in figures.items()}
