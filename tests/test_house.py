"""The walls of the house: who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "exporter": {"receiver", "deploy", "tests"},
    "receiver": {"exporter", "deploy", "tests"},
    "serving": {"exporter", "receiver", "deploy", "tests"},
    "deploy/demo/sandbox": {"exporter", "receiver", "serving", "tests"},
}


def imported(file: Path) -> set[str]:
    """The top-level packages that a source file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_part_imports_what_is_not_its_own(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert {str(file.relative_to(ROOT)): bad for file in files if (bad := imported(file) & FORBIDDEN[folder])} == {}


def test_importing_every_module_starts_and_registers_nothing() -> None:
    program = """
import importlib, pathlib, sys, threading
from prometheus_client import REGISTRY
before = len(list(REGISTRY.collect()))
for name in ("serving", "exporter", "receiver"):
    for file in sorted(pathlib.Path(name).rglob("*.py")):
        if file.name != "__main__.py" and "versions" not in file.parts and file.name != "env.py":
            importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
print(threading.active_count(), len(list(REGISTRY.collect())) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 0\n"
