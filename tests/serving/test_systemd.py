"""What both real programs tell systemd of themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.systemd import notify, watchdog_seconds
from tests.serving.hostile import running


@pytest.fixture(params=["a file", "the abstract namespace"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Where systemd listens, and its address as it is told to services."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(20)
        listener.bind(name if request.param == "a file" else f"\0{name}")
        yield listener, name if request.param == "a file" else f"@{name}"


@pytest.mark.parametrize("name", ["exporter", "receiver"])
def test_it_says_that_it_listens_that_it_lives_and_that_it_ends(
    name: str, heard: tuple[socket.socket, str], tmp_path: Path
) -> None:
    listener, address = heard
    with running(name, tmp_path, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000") as target:
        assert listener.recv(100) == b"READY=1"
        assert target.serves_others()
        assert [listener.recv(100) for _ in range(5)] == [b"WATCHDOG=1"] * 5
        target.popen.send_signal(signal.SIGSTOP)
        listener.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while listener.recv(100):  # what it has sent until then; in the end nothing comes
                pass
        target.popen.send_signal(signal.SIGCONT)
        listener.settimeout(20)
        assert listener.recv(100) == b"WATCHDOG=1"
    listener.settimeout(5)
    last = b""
    while last != b"STOPPING=1":
        last = listener.recv(100)


def test_nobody_is_told_where_nobody_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


@pytest.mark.parametrize(
    ("microseconds", "process", "expected"),
    [("60000000", None, 30), ("60000000", "own", 30), ("60000000", "1", None), ("", None, None), ("soon", None, None)],
)
def test_the_watchdog_is_told_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, process: str | None, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)
    assert watchdog_seconds() == expected
