"""The routes under `/-/` that both processes have: healthy, ready, reload."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.reload import Reload
from serving.settings import ConfigError
from serving.sites import from_another_site

__all__ = ["state_routes"]


def state_routes(*, ready: Callable[[], str | None], reload: Reload) -> list[Route]:
    """`ready` gives None, or the reason why not; the reason is served openly, so it holds no secret and no name.

    It may wait, for a store that is slow to answer: it is called in a thread.
    """

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse("Healthy\n")

    def is_ready(_request: Request) -> Response:
        reason = ready()
        return PlainTextResponse("Ready\n") if reason is None else PlainTextResponse(f"Not ready: {reason}\n", 503)

    def read_again(request: Request) -> Response:
        if from_another_site(request.headers):
            return JSONResponse({"detail": "another site's page asked for this"}, status_code=403)
        try:
            reload()
        except ConfigError as error:
            return JSONResponse({"detail": error.problems}, status_code=400)
        return PlainTextResponse("Reloaded\n")

    return [
        Route("/-/healthy", healthy),
        Route("/-/ready", is_ready),
        Route("/-/reload", read_again, methods=["POST"]),
    ]
