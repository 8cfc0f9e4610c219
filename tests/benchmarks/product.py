"""The product as its locked packages install it, without what the developers' tools bring along and libraries load."""

from __future__ import annotations

import os
import shutil
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
    home, python = folder / "product", _python()
    stamp = home / "installed"
    wanted = f"{python}\n{(ROOT / 'requirements.lock').read_text()}"
    install = [str(ROOT / "deploy" / "venv.sh"), str(home)]
    chosen = environment({"PYTHON": python})
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([*install, "packages"], check=True, env=chosen)
        stamp.write_text(wanted)
    subprocess.run([*install, "product"], check=True, env=chosen, stdout=subprocess.DEVNULL)
    print(f"the product runs on {python}", file=sys.stderr)
    return home / "bin"


def _python() -> str:
    """The distribution's, on which services run, where it will do; another may be built without optimising."""
    distribution = "/usr/bin/python3"
    usable = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    try:
        subprocess.run([distribution, "-c", usable], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return sys.executable
    return distribution
