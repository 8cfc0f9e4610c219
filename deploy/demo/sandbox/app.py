"""The control API and the page's files."""

import json
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from deploy.demo.sandbox.behaviour import STAGES, Behaviour
from deploy.demo.sandbox.services import Services

PAGE = Path(__file__).parent / "page"
RUNBOOKS = Path(__file__).parents[2] / "runbooks"
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# A mail shows its own styles and nothing from elsewhere; it runs nothing, and its links open in a window of their own.
MAIL_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
    )
}
RAW_HEADERS = PAGE_HEADERS | {"Content-Security-Policy": "default-src 'none'; sandbox"}


class Control:
    """Its endpoints; the package's docstring describes them."""

    def __init__(self, services: Services) -> None:
        self._inbox = services.inbox
        self._behaviours = services.behaviours
        self._account = services.account

    async def add_behaviour(self, request: Request) -> Response:
        """POST /sandbox/behaviour"""
        # A page elsewhere cannot send this type to loopback unasked.
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return _problem(415, "Content-Type: application/json is needed")
        try:
            behaviour = Behaviour.model_validate_json(await request.body())
        except ValidationError as error:
            return _problem(422, "; ".join(_told(one["loc"], one["msg"]) for one in error.errors()))
        return JSONResponse(self._behaviours.add(behaviour).document(), 201)

    async def list_behaviours(self, _request: Request) -> Response:
        """GET /sandbox/behaviour"""
        return JSONResponse({"behaviours": [standing.document() for standing in self._behaviours]})

    async def clear_behaviours(self, request: Request) -> Response:
        """DELETE /sandbox/behaviour?channel="""
        self._behaviours.clear(request.query_params.get("channel"))
        return Response(status_code=204)

    async def messages(self, request: Request) -> Response:
        """GET /sandbox/messages?channel=&after=&limit="""
        query = request.query_params
        channel, after, limit = query.get("channel"), query.get("after", "0"), query.get("limit", "0")
        if channel not in (None, *STAGES):
            return _problem(422, f"channel: one of {', '.join(STAGES)}")
        if not (after.isdecimal() and limit.isdecimal()):
            return _problem(422, "after, limit: whole numbers")
        found = self._inbox.messages(channel, int(after), int(limit))
        return JSONResponse({"session": self._inbox.session, "messages": found})

    async def calls(self, request: Request) -> Response:
        """GET /sandbox/calls?channel="""
        return JSONResponse({"calls": self._inbox.calls(request.query_params.get("channel"))})

    async def clear_messages(self, _request: Request) -> Response:
        """DELETE /sandbox/messages"""
        self._inbox.clear()
        return Response(status_code=204)

    async def set_balance(self, request: Request) -> Response:
        """PUT /sandbox/balance"""
        try:
            sms = json.loads(await request.body())["sms"]
        except (ValueError, KeyError, TypeError):
            sms = None
        if not isinstance(sms, int) or sms < 0:
            return _problem(422, "sms: how many short messages the balance pays")
        self._account.set_balance(sms)
        return Response(status_code=204)

    async def raw_mail(self, request: Request) -> Response:
        """GET /sandbox/messages/{id}/raw"""
        mail = self._inbox.mail(request.path_params["id"])
        if mail is None:
            return _problem(404, "no such mail")
        return Response(mail.raw, media_type="message/rfc822", headers=RAW_HEADERS)

    async def html_mail(self, request: Request) -> Response:
        """GET /sandbox/messages/{id}/html"""
        mail = self._inbox.mail(request.path_params["id"])
        html = mail.document()["html"] if mail else None
        if html is None:
            return _problem(404, "no such mail")
        return Response('<base target="_blank">' + html, media_type="text/html", headers=MAIL_HEADERS)


def build(services: Services) -> Starlette:
    """The application."""
    control = Control(services)
    return Starlette(
        routes=[
            Route("/services/{a}/{b}/{c}", services.slack, methods=["POST"]),
            *(Route(f"/aligo/{stage}/", services.aligo, methods=["POST"]) for stage in STAGES["aligo"]),
            Route("/sandbox/behaviour", control.add_behaviour, methods=["POST"]),
            Route("/sandbox/behaviour", control.list_behaviours, methods=["GET"]),
            Route("/sandbox/behaviour", control.clear_behaviours, methods=["DELETE"]),
            Route("/sandbox/messages", control.messages, methods=["GET"]),
            Route("/sandbox/messages", control.clear_messages, methods=["DELETE"]),
            Route("/sandbox/messages/{id:int}/raw", control.raw_mail),
            Route("/sandbox/messages/{id:int}/html", control.html_mail),
            Route("/sandbox/calls", control.calls),
            Route("/sandbox/balance", control.set_balance, methods=["PUT"]),
            Route("/-/healthy", _healthy),
            Route("/runbooks/{language}/{page}", _runbook),
            _file("/", "index.html"),
            *(_file(f"/{name}", name) for name in ("sandbox.css", "sandbox.js", "slack.js", "icon.svg")),
        ]
    )


async def _healthy(_request: Request) -> Response:
    return Response("The sandbox is healthy.\n", media_type="text/plain")


async def _runbook(request: Request) -> Response:
    """What the alerts link to, as text, which every browser shows."""
    asked = (request.path_params["language"], request.path_params["page"])
    found = next((path for path in RUNBOOKS.glob("*/*.md") if (path.parent.name, path.name) == asked), None)
    if found is None:
        return _problem(404, "no such runbook")
    return FileResponse(found, media_type="text/plain", headers=RAW_HEADERS)


def _file(path: str, name: str) -> Route:
    async def endpoint(_request: Request) -> Response:
        return FileResponse(PAGE / name, headers=PAGE_HEADERS)

    return Route(path, endpoint)


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)


def _told(location: tuple[int | str, ...], message: str) -> str:
    return ": ".join([".".join(map(str, location))] * bool(location) + [message.removeprefix("Value error, ")])
