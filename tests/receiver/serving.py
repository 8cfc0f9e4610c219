"""An application behind a real server, on a free port of loopback."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import uvicorn

from tests.waiting import until


@contextlib.contextmanager
def served(config: uvicorn.Config) -> Iterator[str]:
    """Its address; the server has ended afterwards."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the server listens")
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()
