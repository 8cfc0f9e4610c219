"""Words: a story in a language and a form, through the templates beside this module."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from receiver.channels import sms
from receiver.stories import Entry, Story

__all__ = ["PARTS", "Templates", "locales"]

_TEMPLATES = Path(__file__).parent / "templates"
_SHARED = "shared"
_WORDS = "words.j2"
_LOCALE_OF_LAST_RESORT = "en"
_ONE_LINE = frozenset({"subject", "headline"})
# What an expression in somebody's template may raise.
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_BLANK_LINES = re.compile("\n{3,}")


def locales(overrides: Path | None = None) -> set[str]:
    """The languages that there are words for, the built-in ones and those of a folder of one's own."""
    return _locales(_folders(overrides))


def _locales(folders: Sequence[Path]) -> set[str]:
    return {file.parent.name for folder in folders for file in folder.glob(f"*/{_WORDS}")}


def _folders(overrides: Path | None) -> list[Path]:
    return [overrides, _TEMPLATES] if overrides is not None else [_TEMPLATES]


def _ignore(_channel: str, _locale: str, _error: Exception) -> None:
    pass


class Templates:
    """The words and the forms: `LOCALE/words.j2`, and `shared/CHANNEL.PART.j2` or a locale's own of that name.

    Each file of `overrides` takes the place of the built-in one of its name. Where one of them fails, `failed` is told,
    and the message is put together from the built-in ones alone.
    """

    def __init__(
        self, overrides: Path | None = None, *, failed: Callable[[str, str, Exception], None] = _ignore
    ) -> None:
        self._failed = failed
        own = [_Forms(_folders(overrides), ImmutableSandboxedEnvironment)] if overrides is not None else []
        self._sets = [*own, _Forms([_TEMPLATES], _Trusting)]

    def prepare(self) -> None:
        """Reads all of them, which takes longer than many a message may wait. What is wrong is told when it is used."""
        for forms in self._sets:
            forms.prepare()

    def render(
        self,
        told: Story,
        channel: str,
        locale: str,
        *,
        fits: Callable[[Mapping[str, str]], bool] = lambda _parts: True,
        escape: Callable[[str], str] | None = None,
    ) -> dict[str, str]:
        """The channel's parts with as many alerts as fit; the rest is said as a number."""
        told = _escaped(told, escape) if escape is not None else told
        for forms in self._sets:
            try:
                return forms.render(told, channel, locale if locale in forms.locales else _LOCALE_OF_LAST_RESORT, fits)
            except _FAULTS as error:
                self._failed(channel, locale, error)
        return _unadorned(told, channel)


class _Trusting(Environment):
    """For the built-in templates alone, which do no harm; what they tell is data and never becomes a template.

    Half of the time that a message takes in the sandbox is the sandbox's.
    """

    def make_globals(self, d: MutableMapping[str, Any] | None) -> dict[str, Any]:
        """A plain dictionary: Jinja copies it at every message, and its own kind (a ChainMap) is slow to copy."""
        return {**self.globals, **(d or {})}


class _Forms:
    """The templates of some folders, the first that has one winning.

    A part called `html` is told an escaped story: Jinja's own autoescaping trusts what an imported macro returns.
    """

    def __init__(self, folders: Sequence[Path], environment: type[Environment]) -> None:
        self.locales = _locales(folders)
        self._environment = environment(
            loader=FileSystemLoader(folders),
            autoescape=False,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._chosen: dict[tuple[str, str], Template] = {}
        self._environment.filters["within"] = sms.within

    def prepare(self) -> None:
        """Reads all of them that can be read."""
        for name in self._environment.list_templates(extensions=["j2"]):
            with contextlib.suppress(*_FAULTS):
                self._environment.get_template(name)

    def render(
        self, told: Story, channel: str, locale: str, fits: Callable[[Mapping[str, str]], bool]
    ) -> dict[str, str]:
        room = len(told.entries)
        while True:
            parts = {part: self._part(told, channel, part, locale) for part in PARTS[channel]}
            if room <= 1 or fits(parts):
                return parts
            room = room // 2
            told = _shortened(told, room)

    def _part(self, told: Story, channel: str, part: str, locale: str) -> str:
        template = self._template(f"{channel}.{part}.j2", locale)
        seen = _escaped(told, html.escape) if part == "html" else told
        text = _trimmed(template.render(story=seen, locale=locale))
        if not text.strip():
            raise ValueError(f"{template.name} comes to nothing")
        return " ".join(text.split()) if part in _ONE_LINE else text

    def _template(self, name: str, locale: str) -> Template:
        """The locale's own or the shared one; Jinja would look on the disk for the former at every message."""
        key = name, locale
        if key not in self._chosen:
            self._chosen[key] = self._environment.select_template([f"{locale}/{name}", f"{_SHARED}/{name}"])
        return self._chosen[key]


PARTS: Mapping[str, tuple[str, ...]] = {
    "email": ("subject", "text", "html"),
    "slack": ("headline", "text"),
    "sms": ("text",),
}
"""What each channel's message is made of."""


def _unadorned(told: Story, channel: str) -> dict[str, str]:
    """The message without any template, should even a built-in one fail."""
    title = f"[{told.severity.upper() if told.firing else 'RESOLVED'}] {told.title}"
    text = "\n".join([title, *(f"{entry.title}: {entry.message}" for entry in told.entries)])
    forms = {"text": text, "html": f"<pre>{html.escape(text)}</pre>"}
    return {part: forms.get(part, title) for part in PARTS[channel]}


def _trimmed(text: str) -> str:
    """Blank lines of the templates' own making: at both ends, and more than one in a row."""
    return _BLANK_LINES.sub("\n\n", text.strip("\n"))


def _shortened(told: Story, room: int) -> Story:
    left_out = len(told.entries) - room
    return dataclasses.replace(told, entries=told.entries[:room], hidden=told.hidden + left_out)


def _escaped(value: Any, escape: Callable[[str], str]) -> Any:
    """The same facts with every text escaped, so that no template can forget it."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, tuple):
        return tuple(_escaped(item, escape) for item in value)
    if isinstance(value, (Story, Entry)):
        return type(value)(**{name: _escaped(fact, escape) for name, fact in vars(value).items()})
    return value
