"""`coldchain-receiver check-config`: whether the settings can be used, and every template with them."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import yaml

from receiver import stories
from receiver.audiences import Place, warnings
from receiver.carriers import worded
from receiver.examples import EXAMPLES
from receiver.messages import PARTS, Templates, locales
from receiver.settings import ReceiverSettings
from serving import door

__all__ = ["run", "template_faults", "unused_templates"]


def run(options: argparse.Namespace, settings: ReceiverSettings) -> int:
    """0 where all is well, 1 where it would not listen or a template of the site's own is broken."""
    for name, missing in settings.missing.items():
        print(f"{name}: {'off, not set: ' + ', '.join(missing) if missing else 'on'}")
    for place, text in warnings(settings):
        print(f"warning: {_origin(options.config_file, place)}: {'.'.join(map(str, place))}: {text}")
    for file in unused_templates(settings.templates_dir):
        print(f"warning: {file}: not used; templates are LANGUAGE/words.j2, and shared/ or LANGUAGE/ with {_names()}")
    faults = [*door.problems(options, token=settings.token is not None), *template_faults(settings)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        return 1
    print(f"{options.config_file or 'settings'}: fine")
    return 0


def template_faults(settings: ReceiverSettings) -> Iterator[str]:
    """What is wrong with the templates: each is tried on examples of every state, in every language."""
    told: set[str] = set()
    found: list[str] = []
    templates = Templates(
        settings.templates_dir, failed=lambda channel, locale, error: found.append(_fault(channel, locale, error))
    )
    for locale in sorted(locales(settings.templates_dir)):
        for channel in PARTS:
            for name, example in EXAMPLES.items():
                story = stories.story(
                    example, locale=locale, zone=settings.zone, digest="held" if name == "held" else ""
                )
                worded(templates, story, channel, locale)
    for fault in found:
        if fault not in told:
            told.add(fault)
            yield fault


def unused_templates(folder: Path | None) -> list[Path]:
    """Files of the folder that take the place of nothing: a name that is misspelt."""
    if folder is None:
        return []
    names = {"words.j2", *(f"{channel}.{part}.j2" for channel, parts in PARTS.items() for part in parts)}
    known = {*locales(folder), "shared"}
    return [
        file
        for file in sorted(folder.rglob("*.j2"))
        if file.name not in names or len(file.relative_to(folder).parts) != 2 or file.parent.name not in known
    ]


def _names() -> str:
    return ", ".join(f"{channel}.{part}.j2" for channel, parts in PARTS.items() for part in parts)


def _fault(channel: str, locale: str, error: Exception) -> str:
    """With the template's file and line: Jinja puts them into the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{channel} in {locale}"
    return f"{place}: {error}"


def _origin(file: Path | None, place: Place) -> str:
    """File and line of a setting, as far down as the file has it."""
    if file is None:
        return "settings"
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 1
    for key in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == key), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            node = node.value[key]
            line = node.start_mark.line + 1
    return f"{file}:{line}"
