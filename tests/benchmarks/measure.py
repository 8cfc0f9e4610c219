"""Measuring over HTTP: one client for all, medians and ratios from one run."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tests.programs import program
from tests.waiting import until


@dataclass(frozen=True)
class Target:
    """A served page: where, and the process that serves it."""

    name: str
    port: int
    path: str
    pid: int

    def get(self, connection: http.client.HTTPConnection | None = None) -> bytes:
        """The page, as Prometheus asks for it but for compression; raises where it is not 200."""
        own = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        own.request("GET", self.path, headers={"Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
        answer = own.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} answered {answer.status}")
        if connection is None:
            own.close()
        return body

    def samples(self) -> int:
        """How many samples one scrape holds."""
        return sum(1 for line in self.get().splitlines() if line and not line.startswith(b"#"))

    def resident_bytes(self) -> int:
        """Memory of the process and its children."""
        process = psutil.Process(self.pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))

    def wait(self, *texts: bytes, seconds: float = 120) -> float:
        """Seconds until the page is there and holds all of `texts`."""
        begin = time.perf_counter()

        def there() -> bool:
            try:
                page = self.get()
            except (OSError, RuntimeError, http.client.HTTPException):
                return False
            return all(text in page for text in texts)

        until(there, f"{self.name} serves {texts!r}", seconds, pause=0.02)
        return time.perf_counter() - begin


def latencies(target: Target, times: int, *, pause: float = 0.0) -> list[float]:
    """Seconds of each of `times` scrapes on one kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    for _ in range(20):
        target.get(connection)
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        target.get(connection)
        found.append(time.perf_counter() - begin)
        if pause:
            time.sleep(pause)
    connection.close()
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleaved(targets: Sequence[Target], rounds: int, times: int) -> dict[str, list[float]]:
    """Each target's latencies, measured in turn so that a disturbance of the machine meets all of them."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            found[target.name] += latencies(target, times)
    return found


def requests_per_second(target: Target, *, connections: int = 8, seconds: int = 5) -> float:
    """What wrk reaches with so many connections."""
    done = subprocess.run(
        [
            *(program("wrk"), "-t2", f"-c{connections}", f"-d{seconds}s"),
            *("-H", "Accept: text/plain;version=0.0.4", f"http://127.0.0.1:{target.port}{target.path}"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    found = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        raise RuntimeError(done.stdout)
    return float(found[1])


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, the figure, the peer's, and the bar for their ratio."""

    what: str
    ours: str
    peer: str
    ratio: float
    bar: float
    higher_is_better: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""
        return self.ratio >= self.bar if self.higher_is_better else self.ratio <= self.bar


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with what machine they are of."""
    lines = [
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; medians of one run",
        "",
        "| | ours | peer | ratio | bar | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≥" if row.higher_is_better else "≤"
        lines.append(
            f"| {row.what} | {row.ours} | {row.peer} | {row.ratio:.2f} | {sign} {row.bar:g} "
            f"| {'reached' if row.reached else 'MISSED'} |"
        )
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """A time for the table."""
    return f"{1000 * seconds:.2f} ms"


def megabytes(size: float) -> str:
    """A size for the table."""
    return f"{size / 1e6:.0f} MB"
