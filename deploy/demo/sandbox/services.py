"""What Slack and Aligo answer over HTTP, or what they were told to do instead."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from deploy.demo.sandbox import aligo, slack
from deploy.demo.sandbox.behaviour import Behaviours, Channel, Standing
from deploy.demo.sandbox.inbox import Inbox, SlackPost


@dataclass(frozen=True)
class Answer:
    """What a service says."""

    status: int
    body: str
    headers: Mapping[str, str]
    note: str
    accepted: bool = True


@dataclass(frozen=True)
class Services:
    """The two services; `request.state.connection` is the client's transport, as the server puts it there."""

    inbox: Inbox
    behaviours: Behaviours
    account: aligo.Aligo
    pace: slack.Pace
    _calls: "itertools.count[int]" = field(default_factory=itertools.count)

    async def slack(self, request: Request) -> Response:
        """POST /services/{a}/{b}/{c}"""
        body = await request.body()
        standing = self.behaviours.take("slack", "post")
        own = None
        if standing is None or standing.behaviour.accepts:
            hook = "/".join(request.path_params[part] for part in "abc")
            own = self._slack(hook, request.headers.get("content-type", ""), body)
        return await self._answer(request, "slack", "post", standing, own)

    async def aligo(self, request: Request) -> Response:
        """POST /aligo/send/, remain/, list/, sms_list/"""
        stage = request.url.path.split("/")[2]
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        standing = self.behaviours.take("aligo", stage)
        own = None
        if standing is None or standing.behaviour.accepts:
            own = self._aligo(stage, form, standing.behaviour.refuse if standing else {})
        return await self._answer(request, "aligo", stage, standing, own)

    def _slack(self, hook: str, content_type: str, body: bytes) -> Answer:
        headers = {"content-type": "text/html"}  # as Slack labels its plain words
        wait = self.pace.wait(hook, time.monotonic())
        if wait:
            headers["retry-after"] = slack.retry_after(wait)
            return Answer(429, "rate_limited", headers, "429 rate_limited", accepted=False)
        try:
            payload = slack.payload(content_type, body)
        except slack.Refused as refused:
            return Answer(refused.status, refused.word, headers, f"{refused.status} {refused.word}", accepted=False)
        self.inbox.add(SlackPost(hook, payload))
        return Answer(200, "ok", headers, "200 ok")

    def _aligo(self, stage: str, form: dict[str, str], refuse: Mapping[str, int]) -> Answer:
        now = datetime.now(UTC)
        ask: dict[str, Callable[[], aligo.Answer]] = {
            "send": lambda: self.account.send(form, now, refuse),
            "remain": lambda: self.account.remain(form),
            "list": lambda: self.account.list(form, now),
            "sms_list": lambda: self.account.sms_list(form),
        }
        try:
            found = ask[stage]()
        except aligo.Refused as refused:
            found = {"result_code": refused.code, "message": refused.message}
        code = found["result_code"]
        # Aligo is not of one mind: JSON with a number, or text/html with a string. Here they take turns.
        html = next(self._calls) % 2 == 1
        headers = {"content-type": "text/html; charset=UTF-8" if html else "application/json"}
        body = json.dumps(found | {"result_code": str(code)} if html else found, ensure_ascii=False)
        return Answer(200, body, headers, f"result_code {code}", accepted=code == 1)

    async def _answer(
        self, request: Request, channel: Channel, stage: str, standing: Standing | None, own: Answer | None
    ) -> Response:
        """The service's own answer, or what it was told to do instead."""
        answer = own or Answer(200, "", {"content-type": "text/html; charset=utf-8"}, "", accepted=False)
        note = answer.note
        if standing is not None:
            behaviour = standing.behaviour
            if behaviour.hang:
                self.inbox.note(channel, stage, "hung", accepted=answer.accepted)
                while not standing.cleared.is_set() and not await request.is_disconnected():
                    await asyncio.sleep(0.05)
                return _hang_up(request)
            await asyncio.sleep(behaviour.delay)
            if behaviour.drop:
                self.inbox.note(channel, stage, "dropped", accepted=answer.accepted)
                return _hang_up(request)
            answer = _altered(answer, standing)
            note = f"{answer.status} {answer.body}" if behaviour.answers else note
        self.inbox.note(channel, stage, note[:200], accepted=answer.accepted)
        return Response(answer.body, answer.status, headers=dict(answer.headers))


def _altered(answer: Answer, standing: Standing) -> Answer:
    behaviour = standing.behaviour
    body, headers = answer.body, dict(answer.headers)
    if isinstance(behaviour.body, str):
        body = behaviour.body
    elif behaviour.body is not None:
        body, headers["content-type"] = json.dumps(behaviour.body, ensure_ascii=False), "application/json"
    headers |= {name.lower(): value for name, value in behaviour.headers.items()}
    return replace(answer, status=behaviour.status or answer.status, body=body, headers=headers)


def _hang_up(request: Request) -> Response:
    request.state.connection.abort()
    return Response()  # goes nowhere
