"""Settings of who is told what and when: groups, routes, schedules, quiet hours; and the routing they come to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from receiver import matchers, schedules
from receiver.channels import CHANNELS, ChannelName
from receiver.channels.email import Addresses, EmailSettings
from receiver.channels.slack import HOOK, SlackSettings
from receiver.channels.sms import Numbers, SmsSettings
from receiver.matchers import Matcher
from receiver.messages import locales
from receiver.notification import Severity
from receiver.routing import Audience, QuietRule, Route, Routing
from receiver.schedules import Schedule, Window
from receiver.tables import LONGEST_NAME
from serving.settings import Env, Settings

__all__ = ["AudienceSettings", "Days", "DeliveredSeverity", "Place", "routing", "warnings"]

T = TypeVar("T")

DeliveredSeverity: TypeAlias = Literal["info", "warning", "critical"]
Place: TypeAlias = tuple[str | int, ...]
"""Where something stands in the file: keys and positions from the top."""

_SEVERITIES: tuple[DeliveredSeverity, ...] = ("info", "warning", "critical")
DEFAULT_GROUP = "default"
"""The group of ALERT_EMAIL_TO, ALERT_SMS_TO and SLACK_WEBHOOK_URL, where the file says nothing else of it."""

_RECIPIENTS: Mapping[str, ChannelName] = {"ALERT_EMAIL_TO": "email", "ALERT_SMS_TO": "sms"}


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("expected a time zone of the tz database, such as Asia/Seoul") from None
    return value


def _folder(value: Path | None) -> Path | None:
    if value is not None and not value.is_dir():
        raise ValueError("is no folder")
    return value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _some(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("must name at least one")
    return values


def _days(values: tuple[str, ...]) -> tuple[str, ...]:
    schedules.parse_days(values)
    return values


def _hours(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        schedules.parse_hours(value)
    return values


def _holiday(value: object) -> date | str:
    if not isinstance(value, (date, str)):
        raise ValueError("write a date such as 2027-02-06, or 12-25 for every year")  # noqa: TRY004 - for pydantic
    schedules.parse_holidays([value])
    return value


def _matchers(value: object) -> tuple[Matcher, ...]:
    if not isinstance(value, str):
        raise ValueError('write a matcher such as severity="critical"')  # noqa: TRY004 - for pydantic
    return matchers.parse(value)


ZoneName = Annotated[str, AfterValidator(_zone)]
HolidayDates: TypeAlias = tuple[Annotated[date | str, BeforeValidator(_holiday)], ...]
SomeStrings = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_some)]
Days = Annotated[SomeStrings, AfterValidator(_days)]
"""As `schedules.parse_days` reads them, one at least."""


class SeverityChannels(Settings):
    """Which channels carry which severity."""

    info: tuple[ChannelName, ...] = ("slack",)
    warning: tuple[ChannelName, ...] = ("email", "slack")
    critical: tuple[ChannelName, ...] = ("email", "sms", "slack")


class WindowSettings(Settings):
    """Hours of some days, all of them where nothing is said."""

    days: Days = schedules.DAYS
    hours: Annotated[SomeStrings, AfterValidator(_hours)] = ("00:00-24:00",)


class ScheduleSettings(Settings):
    """In force while any of its windows is; zone and holidays are the file's where it has none of its own."""

    windows: Annotated[tuple[WindowSettings, ...], AfterValidator(_some)]
    time_zone: ZoneName | None = None
    holidays: HolidayDates | None = None


class GroupSettings(Settings):
    """Recipients. A group that names none at all has those of ALERT_EMAIL_TO, ALERT_SMS_TO and SLACK_WEBHOOK_URL."""

    email: Addresses = ()
    sms: Numbers = ()
    slack: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    locale: str | None = None
    time_zone: ZoneName | None = None
    on_duty: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_empty(cls, value: object) -> object:
        """A group of which every line is commented out."""
        return {} if value is None else value

    @property
    def names_recipients(self) -> bool:
        return bool(self.email or self.sms or self.slack)


class RouteChannels(Settings):
    """Which channels carry which severity on a route; the others as `channels` says."""

    info: tuple[ChannelName, ...] | None = None
    warning: tuple[ChannelName, ...] | None = None
    critical: tuple[ChannelName, ...] | None = None


class RouteSettings(Settings):
    """Alerts that all the matchers match go to the groups; the routes after it are asked only where it says so."""

    matchers: Annotated[
        tuple[Annotated[tuple[Matcher, ...], BeforeValidator(_matchers)], ...],
        BeforeValidator(_listed),
        AfterValidator(_some),
    ]
    groups: SomeStrings
    channels: RouteChannels = RouteChannels()
    continue_: Annotated[bool, Field(alias="continue")] = False


class DefaultRouteSettings(Settings):
    """Where everything goes that no route takes, or that would reach nobody."""

    groups: SomeStrings = (DEFAULT_GROUP,)
    channels: RouteChannels = RouteChannels()


class QuietSettings(Settings):
    """What is held back to the end of the schedule, or never sent; the first that applies decides."""

    schedule: str
    channels: Annotated[tuple[ChannelName, ...], BeforeValidator(_listed), AfterValidator(_some)] = CHANNELS
    severities: Annotated[tuple[DeliveredSeverity, ...], BeforeValidator(_listed), AfterValidator(_some)] = (
        "info",
        "warning",
    )
    groups: SomeStrings | None = None
    action: Literal["hold", "suppress"] = "hold"


class AudienceSettings(Settings):
    """The part of the settings that decides who is told of what, in which words."""

    locale: Annotated[str, Env("RECEIVER_LOCALE")] = "ko"
    time_zone: ZoneName = "Asia/Seoul"
    templates_dir: Annotated[Path | None, AfterValidator(_folder)] = None
    channels: SeverityChannels = SeverityChannels()
    email: EmailSettings = EmailSettings()
    slack: SlackSettings = SlackSettings()
    sms: SmsSettings = SmsSettings()
    groups: dict[str, GroupSettings] = Field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = ()
    default: DefaultRouteSettings = DefaultRouteSettings()
    holidays: HolidayDates = ()
    schedules: dict[str, ScheduleSettings] = Field(default_factory=dict)
    quiet: tuple[QuietSettings, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> AudienceSettings:
        problems = [
            InitErrorDetails(type=PydanticCustomError("reference", "{text}", {"text": text}), loc=place, input=None)
            for place, text in _problems(self)
        ]
        if problems:
            raise ValidationError.from_exception_data("settings", problems, hide_input=True)
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """For each channel the variables that it still needs; a channel that lacks any is off."""
        groups = self.groups.values()
        given = {name for name, channel in _RECIPIENTS.items() if any(getattr(one, channel) for one in groups)}
        return self._lacking(given)

    @property
    def unable(self) -> dict[str, tuple[str, ...]]:
        """For each channel the variables without which it can send to nobody at all, whoever is named."""
        return self._lacking(_RECIPIENTS)

    def _lacking(self, given: Collection[str]) -> dict[str, tuple[str, ...]]:
        """For each channel the variables that it needs and does not have, `given` ones left out."""
        found = {"email": self.email.missing, "slack": self.slack.missing, "sms": self.sms.missing}
        return {channel: tuple(name for name in names if name not in given) for channel, names in found.items()}

    def group_zone(self, group: str) -> ZoneInfo:
        """The time zone of a group's readers."""
        known = self.groups.get(group)
        return ZoneInfo(known.time_zone) if known is not None and known.time_zone is not None else self.zone


def routing(settings: AudienceSettings) -> Routing:
    """Who is told by what and when, of the channels that are on."""
    off = frozenset(name for name, missing in settings.missing.items() if missing)
    found = _schedules(settings)
    return Routing(
        audiences={name: _audience(name, group, settings, off, found) for name, group in _groups(settings).items()},
        default=Route("default", settings.default.groups, _channels(settings.default.channels, settings)),
        routes=tuple(
            Route(
                f"routes.{position}",
                route.groups,
                _channels(route.channels, settings),
                _flat(route),
                goes_on=route.continue_,
            )
            for position, route in enumerate(settings.routes)
        ),
        quiet=tuple(
            QuietRule(
                f"quiet.{position}",
                found[rule.schedule],
                frozenset(rule.channels),
                frozenset(rule.severities),
                frozenset(rule.groups) if rule.groups is not None else None,
                hold=rule.action == "hold",
            )
            for position, rule in enumerate(settings.quiet)
        ),
        one_by_one=frozenset({"slack"}),
        off=off,
        silent_when_resolved=frozenset() if settings.sms.send_resolved else frozenset({"sms"}),
    )


def _groups(settings: AudienceSettings) -> dict[str, GroupSettings]:
    return {DEFAULT_GROUP: GroupSettings(), **settings.groups}


def _audience(
    name: str,
    group: GroupSettings,
    settings: AudienceSettings,
    off: frozenset[str],
    found: Mapping[str, Schedule],
) -> Audience:
    hook = (HOOK,) if settings.slack.webhook_url is not None else ()
    recipients: dict[str, tuple[str, ...]] = (
        {"email": group.email, "slack": group.slack, "sms": group.sms}
        if group.names_recipients
        else {"email": settings.email.to, "slack": hook, "sms": settings.sms.to}
    )
    return Audience(
        name=name,
        locale=group.locale or settings.locale,
        recipients={channel: some for channel, some in recipients.items() if some and channel not in off},
        on_duty=found[group.on_duty] if group.on_duty is not None else None,
    )


def _channels(own: RouteChannels, settings: AudienceSettings) -> dict[Severity, tuple[str, ...]]:
    return {
        severity: chosen if (chosen := getattr(own, severity)) is not None else getattr(settings.channels, severity)
        for severity in _SEVERITIES
    }


def _schedules(settings: AudienceSettings) -> dict[str, Schedule]:
    return {
        name: Schedule(
            windows=tuple(
                Window(schedules.parse_days(window.days), tuple(map(schedules.parse_hours, window.hours)))
                for window in one.windows
            ),
            zone=ZoneInfo(one.time_zone or settings.time_zone),
            holidays=schedules.parse_holidays(settings.holidays if one.holidays is None else one.holidays),
        )
        for name, one in settings.schedules.items()
    }


def _flat(route: RouteSettings) -> tuple[Matcher, ...]:
    return tuple(matcher for some in route.matchers for matcher in some)


Problem: TypeAlias = tuple[Place, str]


def _problems(settings: AudienceSettings) -> Iterator[Problem]:
    """What each setting for itself cannot know: names that nothing has, routes that nothing reaches."""
    found = _schedules(settings)
    yield from _unknown_languages(settings)
    yield from _too_long("groups", settings.groups)
    yield from _too_long("slack.hooks", settings.slack.hooks)
    for name, group in settings.groups.items():
        yield from _unknown(("groups", name, "on_duty"), "schedule", [group.on_duty], found)
        yield from _unknown(("groups", name, "slack"), "Slack hook", group.slack, settings.slack.addresses)
    yield from _wrong_routes(settings)
    yield from _wrong_quiet(settings, found)
    yield from _unreachable(settings.routes)


def _unknown(place: Place, kind: str, names: Sequence[str | None], known: Mapping[str, Any]) -> Iterator[Problem]:
    for name in names:
        if name is not None and name not in known:
            yield place, f"there is no {kind} {name!r}; there is: {', '.join(sorted(known)) or 'none'}"


def _too_long(place: str, names: Iterable[str]) -> Iterator[Problem]:
    for name in names:
        if len(name) > LONGEST_NAME:
            yield (*place.split("."), name), f"the name is too long: at most {LONGEST_NAME} characters"


def _unknown_languages(settings: AudienceSettings) -> Iterator[Problem]:
    known = locales(settings.templates_dir)
    chosen: dict[Place, str | None] = {("groups", name, "locale"): one.locale for name, one in settings.groups.items()}
    for place, locale in {("locale",): settings.locale, **chosen}.items():
        if locale is not None and locale not in known:
            yield place, f"must be one of {', '.join(sorted(known))}, or have a folder in templates_dir"


def _wrong_routes(settings: AudienceSettings) -> Iterator[Problem]:
    groups = _groups(settings)
    for index, route in enumerate(settings.routes):
        yield from _unknown(("routes", index, "groups"), "group", route.groups, groups)
    yield from _unknown(("default", "groups"), "group", settings.default.groups, groups)
    for name in settings.default.groups:
        if name in groups and groups[name].on_duty is not None:
            yield ("default", "groups"), f"{name!r} has hours (on_duty), but somebody must always be there"


def _wrong_quiet(settings: AudienceSettings, found: Mapping[str, Schedule]) -> Iterator[Problem]:
    for index, rule in enumerate(settings.quiet):
        yield from _unknown(("quiet", index, "schedule"), "schedule", [rule.schedule], found)
        yield from _unknown(("quiet", index, "groups"), "group", rule.groups or (), _groups(settings))
        if rule.schedule in found and rule.action == "hold" and found[rule.schedule].always:
            yield (
                ("quiet", index, "schedule"),
                f"{rule.schedule!r} is always in force: what is held would never be sent",
            )


def _unreachable(routes: Sequence[RouteSettings]) -> Iterator[Problem]:
    told = [_known_severities(_flat(route)) for route in routes]
    for index, own in enumerate(told):
        place = ("routes", index, "matchers")
        before = (one for one in range(index) if not routes[one].continue_ and matchers.implied(told[one], own))
        if matchers.contradictory(own):
            allowed = f"severity is one of {', '.join(_SEVERITIES)}"
            yield place, f"no alert can match {', '.join(map(str, _flat(routes[index])))} ({allowed})"
        elif (first := next(before, None)) is not None:
            text = f"never reached, for routes.{first} takes all of its alerts: move it up, or let that one continue"
            yield place, text


def _known_severities(given: Sequence[Matcher]) -> list[Matcher]:
    """The matchers with those of severity written as the severities that there are."""
    found = [Matcher("severity", "=~", "|".join(_SEVERITIES))]
    for one in given:
        named = "|".join(filter(one.takes, _SEVERITIES)) or "none"
        found.append(Matcher("severity", "=~", named) if one.name == "severity" else one)
    return found


def warnings(settings: AudienceSettings) -> Iterator[Problem]:
    """What can be used, but is hardly what was meant: its place in the file and what is odd about it."""
    groups, plan = settings.groups, routing(settings)
    used = {name for route in settings.routes for name in route.groups} | set(settings.default.groups)
    in_force = {group.on_duty for group in groups.values()} | {rule.schedule for rule in settings.quiet}
    hooks = {hook for group in groups.values() for hook in group.slack}
    for name in groups:
        if name not in used:
            yield ("groups", name), "no route leads to this group"
        for channel in sorted(plan.off):
            if getattr(groups[name], channel):
                lacking = ", ".join(settings.missing[channel])
                yield ("groups", name, channel), f"{channel} is off (not set: {lacking}), so nobody here is told by it"
    for name in settings.schedules:
        if name not in in_force:
            yield ("schedules", name), "nothing uses this schedule"
    for name in settings.slack.hooks:
        if name not in hooks:
            yield ("slack", "hooks", name), "no group posts to this hook"
    yield from _left_out(settings, plan, used)


def _left_out(settings: AudienceSettings, plan: Routing, used: AbstractSet[str]) -> Iterator[Problem]:
    """What a group loses that names a recipient of its own, and has none of the environment's any more."""
    hook = (HOOK,) if settings.slack.webhook_url is not None else ()
    why = "a group that names recipients has those alone"
    for place, what, own, add in (
        (("email", "to"), "some of ALERT_EMAIL_TO", settings.email.to, "them"),
        (("slack", "webhook_url"), "SLACK_WEBHOOK_URL", hook, f"slack: [{HOOK}]"),
        (("sms", "to"), "some of ALERT_SMS_TO", settings.sms.to, "them"),
    ):
        told = {to for name in used for to in plan.audiences[name].recipients.get(place[0], ())}
        if place[0] not in plan.off and not told.issuperset(own):
            yield place, f"no alert goes to {what}: {why}; add {add} to one"
    for severity, channels in plan.default.channels.items():
        on = [channel for channel in channels if channel not in plan.off]
        if on and not any(plan.audiences[name].recipients.keys() & on for name in plan.default.audiences):
            lacking = ", ".join(on)
            yield ("default",), f"{severity} alerts reach nobody: none of these groups has recipients for {lacking}"
