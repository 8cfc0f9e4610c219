"""The programs that tests run beside the product: found wherever a system puts them, or the test is skipped."""

import os
import shutil
from glob import glob
from pathlib import Path
from typing import NoReturn

import pytest

# Debian keeps PostgreSQL's server programs out of PATH, and a user's PATH may lack /usr/sbin.
PLACES = ("/usr/bin", "/usr/local/bin", "/usr/lib/postgresql/*/bin", "/usr/sbin", "/usr/local/sbin")


def program(name: str, *alternatives: str) -> str:
    """The path of the program, by its name or another that some system gives it.

    Where there is none the test is skipped, with the reason; with CI=true in the environment it fails.
    """
    folders = [*os.get_exec_path(), *(folder for place in PLACES for folder in sorted(glob(place), reverse=True))]  # noqa: PTH207 - a pattern with a root
    found = _found((name, *alternatives), folders)
    if found is None:
        _missing(f"{name} is not installed: looked in PATH and {', '.join(PLACES)}")
    return found


def newer_program(name: str, *alternatives: str) -> str:
    """The path of the program in the folder that NEWER_PROMETHEUS names (its bin/: Prometheus 3, Alertmanager 0.33).

    Skipped where the variable is not set; where it is set, a missing program is treated as `program` does.
    """
    folder = os.environ.get("NEWER_PROMETHEUS")
    if not folder:
        pytest.skip("NEWER_PROMETHEUS names no folder with Prometheus 3 and Alertmanager 0.33 (in its bin/)")
    found = _found((name, *alternatives), [str(Path(folder) / "bin")])
    if found is None:
        _missing(f"{name} is not in {folder}/bin, which NEWER_PROMETHEUS names")
    return found


def _found(names: tuple[str, ...], folders: list[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name, path=os.pathsep.join(folders)))), None)


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
