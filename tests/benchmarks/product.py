"""The product's processes as its own lock installs them, where the developers' tools are installed as well."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

__all__ = ["command"]

_LOCK = Path(__file__).parents[2] / "requirements.lock"
_RUN = (
    "import runpy, sys; "
    "sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(','))); "  # None: cannot be imported
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """How to run one of ours so that it finds no module that only the developers' tools have brought.

    Libraries load what they find: structlog and Mako take rich and Pygments along, some 10 MB and a tenth of a second.
    """
    return [sys.executable, "-c", _RUN, ",".join(_foreign()), module, *arguments]


def _foreign() -> list[str]:
    ours = {_plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", _LOCK.read_text("utf-8"), re.MULTILINE)}
    ours |= {"coldchain-monitor", "pip", "setuptools"}
    return sorted(
        module
        for module, distributions in packages_distributions().items()
        if not ours & {_plain(name) for name in distributions}
        and module.isidentifier()
        and module not in sys.stdlib_module_names
        and module not in {"exporter", "receiver", "serving", "deploy", "grafana", "tests"}
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
