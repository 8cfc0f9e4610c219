"""Asks the advisory service about every locked package; `make check` fails where one is known to be vulnerable."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def report(dependencies: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Lines to print for pip-audit's findings, and whether any package is known to be vulnerable."""
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none yet'}"
        for one in dependencies
        for found in one.get("vulns", [])
    ]
    unknown = [one["name"] for one in dependencies if "skip_reason" in one]
    vulnerable = bool(lines)
    if unknown:
        lines.append(f"not audited, for the advisory service did not answer: {len(unknown)} of {len(dependencies)}")
    return lines, vulnerable


def main() -> int:
    """1 where a package is vulnerable; 0 where none is known to be, or nobody answers."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--timeout=10"),
            *("--disable-pip", "--require-hashes", "--requirement=requirements.lock"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(f"dependencies not audited: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return 0
    lines, vulnerable = report(dependencies)
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
