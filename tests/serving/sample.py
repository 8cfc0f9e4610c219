"""A process as small as can be, served as both of ours are: `python -m tests.serving.sample FLAGS`."""

import os
import sys

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving import command, logs, protocol
from serving.reload import Reload
from serving.routes import state_routes
from serving.settings import ConfigError


def main() -> int:
    parser, _ = command.parser("sample", "A sample.", "1.2.3", default_address="127.0.0.1:0")
    options = parser.parse_args()
    logs.configure(options.log_level, options.log_format)

    def step() -> None:
        if options.config_file is not None and not options.config_file.exists():
            raise ConfigError(["sample.yaml: cannot be read"])

    reload = Reload(step)

    async def page(_request: Request) -> Response:
        return PlainTextResponse(f"reload successful: {reload.successful}\n")

    app = Starlette(routes=[Route("/", page), *state_routes(ready=lambda: None, reload=reload)])
    refusals: list[str] = []

    async def echo(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes, {len(refusals)} refused\n")

    app.router.routes.append(Route("/echo", echo, methods=["POST"]))
    protocol.REQUEST_SECONDS = float(os.environ.get("SAMPLE_REQUEST_SECONDS", protocol.REQUEST_SECONDS))
    token = os.environ.get("SAMPLE_TOKEN")
    return command.run(
        app, options, reload=reload, token=lambda: SecretStr(token) if token else None, refused=refusals.append
    )


if __name__ == "__main__":
    sys.exit(main())
