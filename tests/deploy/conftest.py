"""The two generations of programs that the rules and routes hold on."""

from collections.abc import Callable

import pytest

from tests.programs import newer_program, program

Tool = Callable[[str], str]
DEBIAN_NAMES = {"alertmanager": "prometheus-alertmanager"}


@pytest.fixture(params=["installed", "newer"])
def tool(request: pytest.FixtureRequest) -> Tool:
    """Finds a program by name: the installed one (2.42 and 0.25 on Debian 12), then the newer (3.x and 0.33)."""
    find = program if request.param == "installed" else newer_program
    return lambda name: find(name, *filter(None, [DEBIAN_NAMES.get(name)]))
