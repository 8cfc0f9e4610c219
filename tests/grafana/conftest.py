"""Each dashboard by itself, checked by both generations of programs."""

import pytest

import grafana  # noqa: F401 - first, for it quietens the SDK
from tests.deploy.conftest import tool
from tests.grafana.dashboards import FILES, Json, document

__all__ = ["tool"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> Json:
    """One of the committed dashboards."""
    return document(request.param)
