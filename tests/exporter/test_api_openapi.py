"""The running exporter keeps to its OpenAPI description, as schemathesis tries it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.databases import SQLite
from tests.exporter.running import running
from tests.programs import program
from tests.waiting import until


def schemathesis() -> str:
    """The program, of this environment or another."""
    beside = Path(sys.executable).with_name("schemathesis")
    return str(beside) if beside.exists() else program("schemathesis")


def test_schemathesis_finds_nothing(tmp_path: Path, sqlite: SQLite) -> None:
    command = schemathesis()
    with running(tmp_path, "{}\n", database_url=sqlite.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 5, "all are up")
        url = f"http://127.0.0.1:{exporter.port}/api/v1/monitoring/openapi.json"
        options = ("--checks=all", "--max-examples=30", "--seed=1", "--no-color", "--generation-database=none")
        done = subprocess.run(
            [command, "run", url, *options], check=False, cwd=tmp_path, capture_output=True, text=True
        )
        assert "4 selected / 4 total" in done.stdout
        assert done.returncode == 0, done.stdout
        assert exporter.get("/-/healthy").status_code == 200
        assert not any("level=error" in line for line in exporter.log())
