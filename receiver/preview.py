"""`coldchain-receiver preview`: a notification as it will look on a phone, in Slack and in the mailbox."""

from __future__ import annotations

import argparse
import html
import re
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path

import jinja2

from receiver import alertmanager, stories
from receiver.carriers import worded
from receiver.channels import slack, sms
from receiver.examples import EXAMPLES
from receiver.messages import PARTS, Templates, locales
from receiver.notification import Notification
from receiver.settings import ReceiverSettings

__all__ = ["add", "mrkdwn", "page", "run"]

_LINK = re.compile("\0(https?://[^|\\s]+?)\\|(.+?)\1")
# A star formats only between what is no letter, in Hangul too: "*11건*이" stays as it is.
_BOLD = re.compile(r"(?<!\w)\*(\S(?:[^*\n]*\S)?)\*(?!\w)")
_EMOJI = {":rotating_light:": "🚨"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The sub-command."""
    preview = commands.add_parser(
        "preview",
        help="show a notification as mail, Slack message and SMS",
        description="Shows a notification as mail, Slack message and SMS: here as text, in the browser as they look.",
    )
    preview.add_argument("file", nargs="?", type=Path, help="a body as Alertmanager posts it; default: --example")
    preview.add_argument("--example", choices=EXAMPLES, default="critical", help="default: %(default)s")
    preview.add_argument("--locale", help="default: the file's locale")
    preview.add_argument("--out", type=Path, metavar="DIR", help="where to write the pages; default: a new folder")
    preview.add_argument("--no-open", dest="open", action="store_false", help="do not open the browser")


def run(options: argparse.Namespace, settings: ReceiverSettings) -> int:
    """0 after showing it; 1 where the file cannot be read or a template of the site's own is broken."""
    locale, known = options.locale or settings.locale, locales(settings.templates_dir)
    if locale not in known:
        return _refuse(f"--locale: must be one of {', '.join(sorted(known))}")
    folder = options.out or Path(tempfile.mkdtemp(prefix="coldchain-preview-"))
    try:
        told = alertmanager.parse(options.file.read_bytes()) if options.file else EXAMPLES[options.example]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}")
    except alertmanager.InvalidPayloadError as error:
        return _refuse(f"{options.file}: {error}")
    failures: list[str] = []
    templates = Templates(
        settings.templates_dir, failed=lambda channel, _, error: failures.append(f"{channel}: {error}")
    )
    held = not options.file and options.example == "held"
    parts = _worded(told, templates, settings, locale, held=held)
    _print(parts)
    for failure in failures:
        print(f"error: {failure}; the built-in template is shown", file=sys.stderr)
    (folder / "mail.html").write_text(parts["email"]["html"], encoding="utf-8")
    (folder / "preview.html").write_text(page(parts, locale), encoding="utf-8")
    print(f"\n{folder / 'preview.html'}")
    if options.open and not webbrowser.open((folder / "preview.html").absolute().as_uri()):
        print("no browser could be opened", file=sys.stderr)
    return 1 if failures else 0


def _refuse(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 1


def _worded(
    told: Notification, templates: Templates, settings: ReceiverSettings, locale: str, *, held: bool
) -> dict[str, dict[str, str]]:
    story = stories.story(told, locale=locale, zone=settings.zone, digest="held" if held else "")
    parts = {channel: worded(templates, story, channel, locale) for channel in PARTS}
    parts["sms"]["text"] = sms.choose(parts["sms"]["text"])
    parts["slack"]["colour"] = slack.COLOURS[story.severity] if story.firing else slack.RESOLVED_COLOUR
    return parts


def _print(parts: Mapping[str, Mapping[str, str]]) -> None:
    print(f"── Slack ──\n{parts['slack']['headline']}")
    text = html.unescape(re.sub(r"<[^|>]+\|([^>]+)>", r"[\1]", parts["slack"]["text"]))
    for line in [*text.split("\n"), slack.FOOTER]:
        print(f"▌ {line}".rstrip())
    print(f"\n── {_size(parts['sms']['text'])} ──\n{parts['sms']['text']}")
    print(f"\n── Mail ──\nSubject: {parts['email']['subject']}\n\n{parts['email']['text']}")


def _size(text: str) -> str:
    size = sms.byte_length(text)
    return f"SMS, {size} of {sms.SMS_BYTES} bytes" if size <= sms.SMS_BYTES else f"LMS, {size} bytes"


def page(parts: Mapping[str, Mapping[str, str]], locale: str) -> str:
    """One page with the three as they look; the mail in a frame of its own."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("receiver"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("preview.html").render(
        locale=locale,
        slack={**parts["slack"], "shown": mrkdwn(parts["slack"]["text"]), "title": mrkdwn(parts["slack"]["headline"])},
        footer=slack.FOOTER,
        sms=parts["sms"]["text"],
        size=_size(parts["sms"]["text"]),
        mail=parts["email"],
    )


def mrkdwn(text: str) -> str:
    """Slack's markup as HTML, as far as the templates use it; the text is already escaped for Slack."""
    # the brackets of the text itself are escaped, those of a link are not
    shown = html.escape(html.unescape(text.replace("<", "\0").replace(">", "\1")))
    shown = _LINK.sub(r'<a href="\1">\2</a>', shown)
    for name, picture in _EMOJI.items():
        shown = shown.replace(name, picture)
    return _BOLD.sub(r"<b>\1</b>", shown).replace("\n", "<br>")
