"""The product as its locked packages install it, without what the developers' tools bring along and libraries load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["environment", "installed"]

ROOT = Path(__file__).parents[2]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a program that is installed: the path of these modules is no concern of its."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(settings or {})


def installed(folder: Path) -> Path:
    """Installs it as it is here into an environment of its own, and gives the folder of its programs."""
    home = folder / "product"
    lock = ROOT / "requirements.lock"
    stamp = home / "requirements.lock"
    install = [str(ROOT / "deploy" / "venv.sh"), str(home)]
    python = environment({"PYTHON": sys.executable})
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        subprocess.run([*install, "packages"], check=True, env=python)
        stamp.write_text(lock.read_text())
    subprocess.run([*install, "product"], check=True, env=python, stdout=subprocess.DEVNULL)
    return home / "bin"
