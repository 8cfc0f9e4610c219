"""The exporter as a process on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.databases import free_port
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent

QUICK = "default_interval: 500ms\ndefault_timeout: 1s\nmax_age: 3\nsources: {host: {enabled: false}}\n"


@dataclass
class Exporter:
    """A running exporter, its settings file and what it logs."""

    port: int
    folder: Path
    popen: subprocess.Popen[bytes]

    @property
    def settings(self) -> Path:
        """Its `--config.file`."""
        return self.folder / "exporter.yaml"

    def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer to a GET."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=5)

    def post(self, path: str) -> httpx.Response:
        """The answer to a POST."""
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def series(self) -> dict[str, float]:
        """The samples of this moment, by name with labels."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def value(self, name: str) -> float | None:
        """One of them; None where it is absent."""
        return self.series().get(name)

    def up(self) -> dict[str, float]:
        """`coldchain_source_up`, by source."""
        prefix = 'coldchain_source_up{source="'
        return {name[len(prefix) : -2]: value for name, value in self.series().items() if name.startswith(prefix)}

    def business(self) -> set[str]:
        """The names of what is shown of orders, dispatches and vehicles."""
        names = {name.partition("{")[0] for name in self.series()}
        return {name for name in names if name.startswith(("coldchain_orders", "coldchain_disp", "coldchain_vehicles"))}

    def log(self) -> list[str]:
        """The lines it logged."""
        return (self.folder / "log").read_text(encoding="utf-8").splitlines()

    def warnings(self) -> list[str]:
        """Those at level warning and above, without their times."""
        return [line.partition(" ")[2] for line in self.log() if "level=info" not in line]

    def threads(self) -> int:
        """How many it has."""
        return psutil.Process(self.popen.pid).num_threads()

    def connections(self, port: int) -> int:
        """How many sockets it has towards a port."""
        found = psutil.Process(self.popen.pid).net_connections("tcp")
        return sum(1 for connection in found if connection.raddr and connection.raddr.port == port)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20) -> int:
        """The exit code after the signal; raises TimeoutExpired when it takes longer."""
        self.popen.send_signal(number)
        return self.popen.wait(seconds)


@contextlib.contextmanager
def running(
    folder: Path,
    settings: str = QUICK,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    database_url: str | None = None,
) -> Iterator[Exporter]:
    """An exporter that listens; ended when the context is left."""
    port = free_port()
    (folder / "exporter.yaml").write_text(settings, encoding="utf-8")
    command = [
        *(sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}"),
        *(f"--config.file={folder / 'exporter.yaml'}", *arguments),
    ]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environment or {})}
    if database_url is not None:
        variables["DATABASE_URL"] = database_url
    with (folder / "log").open("ab") as log:
        popen = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
    exporter = Exporter(port, folder, popen)

    def listens() -> bool:
        assert popen.poll() is None, exporter.log()
        with contextlib.suppress(httpx.TransportError):
            return exporter.get("/-/healthy").status_code == 200
        return False

    try:
        until(listens, "the exporter listens")
        yield exporter
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.wait()
        print("\n".join(exporter.log()))  # pytest shows it where the test fails


def ends_with(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of an exporter that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        check=False, cwd=folder, capture_output=True, text=True, timeout=30,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
