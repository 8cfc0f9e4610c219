"""What the sandbox was told to do wrong, and for how many more calls."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Channel = Literal["smtp", "slack", "aligo"]
STAGES: dict[Channel, tuple[str, ...]] = {
    "smtp": ("connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "message"),
    "slack": ("post",),
    "aligo": ("send", "remain", "list", "sms_list"),
}
DEFAULT_STAGE: dict[Channel, str] = {"smtp": "message", "slack": "post", "aligo": "send"}


class Behaviour(BaseModel):
    """One misbehaviour, as it is posted; the package's docstring tells what each field does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: Channel
    stage: str = ""
    times: Annotated[int, Field(ge=1)] | None = None
    delay: Annotated[float, Field(ge=0, le=3600)] = 0
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    body: JsonValue = None
    headers: dict[str, str] = {}
    drop: bool = False
    hang: bool = False
    accept: bool | None = None
    refuse: dict[str, int] = {}
    starttls: bool = True

    @model_validator(mode="before")
    @classmethod
    def _stage_by_default(cls, data: object) -> object:
        if not isinstance(data, dict) or data.get("stage") or data.get("channel") not in DEFAULT_STAGE:
            return data
        channel: Channel = data["channel"]
        if channel == "smtp" and data.get("refuse"):
            return {**data, "stage": "rcpt"}
        if channel == "smtp" and data.get("starttls") is False:
            return {**data, "stage": "ehlo"}
        return {**data, "stage": DEFAULT_STAGE[channel]}

    @model_validator(mode="after")
    def _fits_its_channel(self) -> Self:
        if self.stage not in STAGES[self.channel]:
            raise ValueError(f"stage: {self.channel} has {', '.join(STAGES[self.channel])}")
        if self.channel == "smtp" and self.headers:
            raise ValueError("headers: only slack and aligo have them")
        if self.refuse and (self.channel, self.stage) not in {("smtp", "rcpt"), ("aligo", "send")}:
            raise ValueError("refuse: only smtp at rcpt and aligo at send have recipients to refuse")
        if not self.starttls and (self.channel, self.stage) != ("smtp", "ehlo"):
            raise ValueError("starttls: only smtp at ehlo offers it")
        return self

    @property
    def answers(self) -> bool:
        """Whether another answer is given than the channel's own."""
        return self.status is not None or self.body is not None or self.drop or self.hang

    @property
    def accepts(self) -> bool:
        """Whether the message is taken."""
        return not self.answers if self.accept is None else self.accept


@dataclass
class Standing:
    """A behaviour in force."""

    id: int
    behaviour: Behaviour
    left: int | None
    hits: int = 0
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    def document(self) -> dict[str, JsonValue]:
        """As JSON: only what was asked for, with what is left of it."""
        asked = self.behaviour.model_dump(mode="json", exclude_defaults=True)
        return {"id": self.id, **asked, "times": self.behaviour.times, "left": self.left, "hits": self.hits}


class Behaviours:
    """Those in force, in the order in which they were posted."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._standing: list[Standing] = []

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._standing)

    def add(self, behaviour: Behaviour) -> Standing:
        """Put one in force."""
        standing = Standing(next(self._ids), behaviour, behaviour.times)
        self._standing.append(standing)
        return standing

    def clear(self, channel: str | None = None) -> None:
        """End them, and let go of what hangs."""
        for standing in self._standing:
            if channel in (None, standing.behaviour.channel):
                standing.left = 0
                standing.cleared.set()
        self._standing = [standing for standing in self._standing if not standing.cleared.is_set()]

    def take(self, channel: Channel, stage: str, recipient: str | None = None) -> Standing | None:
        """The one that applies to this call, which it counts for; a refusal applies to its recipients alone."""
        for standing in self._standing:
            behaviour = standing.behaviour
            if (behaviour.channel, behaviour.stage) != (channel, stage) or standing.left == 0:
                continue
            if channel == "smtp" and behaviour.refuse and recipient not in behaviour.refuse:
                continue
            standing.hits += 1
            if standing.left is not None:
                standing.left -= 1
                if standing.left == 0 and not behaviour.hang:  # what still hangs stays listed until it is cleared
                    self._standing.remove(standing)
            return standing
        return None
