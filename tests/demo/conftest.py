"""A sandbox on free ports."""

from collections.abc import Iterator

import pytest

from deploy.demo.sandbox import Options, Sandbox


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(slack_rate=0, keep=10_000)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    yield shared_sandbox
    shared_sandbox.behave()
    shared_sandbox.clear()
