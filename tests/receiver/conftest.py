"""A sandbox to send to, stores of both kinds, and notifications to send."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from deploy.demo.sandbox import Options, Sandbox
from receiver.outbox import Outbox
from receiver.store import Store, read_url
from tests.databases import PostgreSQL


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a program under test sets up for its logs ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(slack_rate=0)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    """Empty, behaving, without Slack's rate limit."""
    yield shared_sandbox
    shared_sandbox.behave()
    shared_sandbox.set_balance(100_000)
    shared_sandbox.clear()


_names = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/receiver.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return new_database(server)


def new_database(server: PostgreSQL) -> str:
    """An empty database on the cluster, with its owner's URL."""
    name = f"receiver{next(_names)}"
    server.execute(f"CREATE DATABASE {name}", database="postgres")
    return f"postgresql://owner@/{name}?host={server.folder}&port={server.port}"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Started, and closed at the end."""
    opened = Store(read_url(database_url))
    opened.start()
    yield opened
    opened.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    """Of a process called `one`."""
    return Outbox(store, "one")


@pytest.fixture
def sample() -> Callable[[str], bytes]:
    """The body of one of `samples/`, as Alertmanager 0.25 sent it."""
    return lambda name: (Path(__file__).parent / "samples" / f"{name}.json").read_bytes()
