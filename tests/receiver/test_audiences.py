"""The file that says who is told what and when: read, checked, and made into a routing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from receiver import audiences, settings
from receiver.notification import Alert
from receiver.routing import Moment, Receipt
from receiver.settings import ReceiverSettings
from serving.settings import ConfigError
from tests.receiver.making import NOW, alert

ENVIRON = {
    "SMTP_HOST": "localhost",
    "SMTP_FROM": "noreply@example.com",
    "ALERT_EMAIL_TO": "admin@example.com",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/secret",
    "ALIGO_API_KEY": "key",
    "ALIGO_USER_ID": "id",
    "ALIGO_SENDER": "0212345678",
    "ALERT_SMS_TO": "010-8765-4321",
}

Load = Callable[..., ReceiverSettings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a file's text."""

    def work(text: str, **environ: str) -> ReceiverSettings:
        file = tmp_path / "receiver.yaml"
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return settings.load(environ=ENVIRON | environ, config_file=file, dotenv=None)

    return work


def receipts(found: ReceiverSettings, one: Alert, at: datetime = NOW) -> list[tuple[str, str, tuple[str, ...]]]:
    taken: tuple[Receipt, ...] = Moment(audiences.routing(found), at).take(one).receipts
    return [(receipt.channel, receipt.audience, receipt.recipients) for receipt in taken]


def test_without_a_file_the_guides_variables_are_all_there_is() -> None:
    found = settings.load(environ=ENVIRON, config_file=None, dotenv=None)
    assert receipts(found, alert(severity="critical")) == [
        ("email", "default", ("admin@example.com",)),
        ("sms", "default", ("01087654321",)),
        ("slack", "default", ("default",)),
    ]


@pytest.mark.parametrize(("text", "silent"), [("", set()), ("sms: {send_resolved: false}\n", {"sms"})])
def test_sms_is_told_of_the_end_unless_the_file_says_otherwise(load: Load, text: str, silent: set[str]) -> None:
    assert audiences.routing(load(text)).silent_when_resolved == silent


TWO_GROUPS = """
    groups:
      admins: {}
      dispatchers:
        email: [dispatch@example.com]
        slack: dispatch
        locale: en
        time_zone: UTC
    slack:
      hooks:
        dispatch: {url: https://hooks.slack.com/services/T/B/other-secret}
    routes:
      - matchers: ['category="business"']
        groups: dispatchers
        channels: {info: [email]}
    default: {groups: [admins]}
"""


def test_group_that_names_nobody_has_the_environments_recipients(load: Load) -> None:
    assert receipts(load(TWO_GROUPS), alert(severity="warning")) == [
        ("email", "admins", ("admin@example.com",)),
        ("slack", "admins", ("default",)),
    ]


def test_group_that_names_somebody_has_those_alone(load: Load) -> None:
    assert receipts(load(TWO_GROUPS), alert(severity="critical", category="business")) == [
        ("email", "dispatchers", ("dispatch@example.com",)),
        ("slack", "dispatchers", ("dispatch",)),
    ]


def test_route_changes_the_channels_of_the_severities_it_names(load: Load) -> None:
    assert receipts(load(TWO_GROUPS), alert(severity="info", category="business")) == [
        ("email", "dispatchers", ("dispatch@example.com",))
    ]


def test_group_has_its_own_language_and_zone(load: Load) -> None:
    found = load(TWO_GROUPS)
    groups = audiences.routing(found).audiences
    assert (groups["dispatchers"].locale, found.group_zone("dispatchers")) == ("en", ZoneInfo("UTC"))
    assert (groups["admins"].locale, found.group_zone("admins")) == ("ko", ZoneInfo("Asia/Seoul"))
    assert found.group_zone("gone by now") == ZoneInfo("Asia/Seoul")


def test_channel_is_on_when_a_group_names_its_recipients(load: Load) -> None:
    found = load("groups: {a: {email: a@example.com, sms: 010-1234-5678}}", ALERT_EMAIL_TO="", ALERT_SMS_TO="")
    assert found.missing == {"email": (), "slack": (), "sms": ()}


def test_channel_that_is_off_tells_nobody(load: Load) -> None:
    found = load(TWO_GROUPS, SMTP_HOST="", SMTP_FROM="")
    assert receipts(found, alert(severity="warning", category="business")) == [("slack", "dispatchers", ("dispatch",))]


def test_secret_of_a_hook_may_be_in_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("https://hooks.slack.com/services/T/B/filed\n")
    found = load(f"slack: {{hooks: {{ops: {{url_file: {tmp_path / 'hook'}}}}}}}")
    assert found.slack.addresses["ops"].get_secret_value() == "https://hooks.slack.com/services/T/B/filed"


SCHEDULES = """
    holidays: [12-25]
    schedules:
      nights:
        windows:
          - hours: "22:00-07:00"
      office:
        windows:
          - {days: mon-fri, hours: ["09:00-12:00", "13:00-18:00"]}
      paris:
        time_zone: Europe/Paris
        holidays: [2026-01-27]
        windows:
          - days: [holiday]
    groups:
      shift: {sms: 010-1234-5678, on_duty: office}
      everyone: {}
    routes:
      - {matchers: [severity=critical], groups: [shift, everyone]}
    default: {groups: everyone}
    quiet:
      - {schedule: nights, severities: [info, warning], channels: email}
      - {schedule: paris, action: suppress, groups: [everyone]}
"""


def test_schedules_become_those_of_groups_and_quiet_hours(load: Load) -> None:
    routing = audiences.routing(load(SCHEDULES))
    office = routing.audiences["shift"].on_duty
    assert office is not None
    assert [office.covers(seoul(text)) for text in ("2026-01-27T11:59", "2026-01-27T12:00", "2026-12-25T11:00")] == [
        True,
        False,
        False,
    ]
    nights, paris = routing.quiet
    assert nights.channels == {"email"}
    assert nights.severities == {"info", "warning"}
    assert nights.audiences is None
    assert nights.hold
    assert paris.channels == {"email", "slack", "sms"}
    assert set(paris.audiences or ()) == {"everyone"}
    assert not paris.hold
    assert paris.schedule.covers(seoul("2026-01-28T07:59"))  # 23:59 in Paris
    assert not paris.schedule.covers(seoul("2026-01-28T08:00"))


def seoul(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Seoul"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "groups:\n  a: {email: a@example.com}\nroutes:\n  - matchers: [severity=critical]\n    groups: [a, b]\n",
            "5: routes.0.groups: there is no group 'b'; there is: a, default",
        ),
        (
            f"groups:\n  {'g' * 65}:\n    slack: default\n",
            f"2: groups.{'g' * 65}: the name is too long: at most 64 characters",
        ),
        (
            f"slack:\n  hooks:\n    {'h' * 65}: {{url: https://hooks.slack.com/services/T/B/x}}\n",
            f"3: slack.hooks.{'h' * 65}: the name is too long: at most 64 characters",
        ),
        ("default:\n  groups: ops\n", "2: default.groups: there is no group 'ops'; there is: default"),
        ("groups:\n  a:\n    on_duty: nights\n", "3: groups.a.on_duty: there is no schedule 'nights'; there is: none"),
        ("groups:\n  a:\n    slack: ops\n", "3: groups.a.slack: there is no Slack hook 'ops'; there is: default"),
        (
            "groups:\n  a:\n    locale: fr\n",
            "3: groups.a.locale: must be one of en, ko, or have a folder in templates_dir",
        ),
        (
            "groups:\n  a:\n    phone: 010\n",
            ("3: groups.a.phone: unknown setting; allowed here: email, locale, on_duty, slack, sms, time_zone"),
        ),
        ("quiet:\n  - schedule: nights\n", "2: quiet.0.schedule: there is no schedule 'nights'; there is: none"),
        (
            "schedules: {all: {windows: [{}]}}\nquiet:\n  - schedule: all\n",
            "3: quiet.0.schedule: 'all' is always in force: what is held would never be sent",
        ),
        (
            "schedules: {day: {windows: [{}]}}\ngroups: {a: {on_duty: day}}\ndefault:\n  groups: a\n",
            "4: default.groups: 'a' has hours (on_duty), but somebody must always be there",
        ),
        (
            "routes:\n  - matchers: [severity]\n    groups: default\n",
            (
                "2: routes.0.matchers.0: 'severity' is no matcher: "
                'write one such as severity="critical", with =, !=, =~ or !~'
            ),
        ),
        (
            "routes:\n  - matchers: [severity=crit]\n    groups: default\n",
            '2: routes.0.matchers: no alert can match severity="crit" (severity is one of info, warning, critical)',
        ),
        (
            (
                "routes:\n  - matchers: [severity!=info]\n    groups: default\n"
                "  - matchers: [severity=critical, category=business]\n    groups: default\n"
            ),
            (
                "4: routes.1.matchers: never reached, for routes.0 takes all of its alerts: "
                "move it up, or let that one continue"
            ),
        ),
        (
            (
                "routes:\n  - matchers: [severity=~warning|critical]\n    groups: default\n"
                "  - matchers: [severity!=info]\n    groups: default\n"
            ),
            "4: routes.1.matchers: never reached, for routes.0 takes all of its alerts: ",
        ),
        (
            "routes:\n  - matchers: [severity=critical]\n    group: default\n",
            ("3: routes.0.group: unknown setting; allowed here: channels, continue, groups, matchers"),
        ),
        (
            "schedules:\n  a:\n    windows:\n      - days: sunday\n",
            "4: schedules.a.windows.0.days: 'sunday' is no day: write ",
        ),
        (
            "holidays:\n  - 2026-02-30\n",
            "2: holidays.0: '2026-02-30' is no date: write 2027-02-06, or 12-25 for every year",
        ),
        (
            "quiet:\n  - {schedule: a, channels: [fax]}\n",
            "2: quiet.0.channels.0: Input should be 'email', 'slack' or 'sms'",
        ),
        (
            "slack:\n  hooks:\n    default: {url: 'https://x/y'}\n",
            "2: slack.hooks: default is the hook of SLACK_WEBHOOK_URL",
        ),
        ("templates_dir: nowhere\n", "1: templates_dir: is no folder"),
        (
            "groups:\n  a:\n    sms: [01023456701]\n",  # which YAML reads as 139353537
            '3: groups.a.sms.0: expected text: write it between quotation marks, as in "010"',
        ),
        ("routes:\n  a: b\n", "1: routes: expected a list, as in [a, b]"),
        ("groups:\n  a: 5\n", "2: groups.a: expected settings as `name: value` lines"),
    ],
)
def test_mistake_is_named_with_its_line_and_what_is_allowed(
    load: Load, tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(text)
    problems = [one.removeprefix(f"{tmp_path / 'receiver.yaml'}:") for one in raised.value.problems]
    assert any(one.startswith(problem) for one in problems), problems


def test_every_mistake_is_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load("groups: {a: {locale: fr, on_duty: x, slack: y}}\ndefault: {groups: b}\n")
    assert len(raised.value.problems) == 4


def test_no_mistake_shows_a_secret(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load("slack: {hooks: {ops: {url: 'hooks.slack.com/very-secret'}}}\ngroups: {a: {slack: none}}\n")
    assert "very-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("severity=critical", "severity=warning"),
        ("severity=critical, category=business", "severity=critical"),
        ('category=~"a.*"', "category=business"),
    ],
)
def test_routes_that_share_no_alert_or_only_some_are_fine(load: Load, first: str, second: str) -> None:
    matchers = [f"  - {{matchers: ['{text}'], groups: default}}\n" for text in (first, second)]
    load("routes:\n" + "".join(matchers))


def test_only_matcher_needs_no_list(load: Load) -> None:
    (route,) = load("routes:\n  - {matchers: category=business, groups: default}\n").routes
    assert [str(matcher) for some in route.matchers for matcher in some] == ['category="business"']


def test_route_after_one_that_continues_is_reached(load: Load) -> None:
    load(
        """
        routes:
          - {matchers: [severity=critical], groups: default, continue: true}
          - {matchers: [severity=critical], groups: default}
        """
    )


def test_what_is_odd_is_reported_but_works(load: Load) -> None:
    found = load(
        """
        groups:
          nobody-asks: {email: a@example.com}
          numbers: {sms: 010-1234-5678}
        schedules: {unused: {windows: [{days: sat}]}}
        slack: {hooks: {lonely: {url: https://hooks.slack.com/services/T/B/x}}}
        default: {groups: [default, numbers]}
        """,
        ALIGO_API_KEY="",
        ALIGO_USER_ID="",
        ALIGO_SENDER="",
    )
    assert list(audiences.warnings(found)) == [
        (("groups", "nobody-asks"), "no route leads to this group"),
        (("groups", "numbers", "sms"), "sms is off (not set: ALIGO_API_KEY), so nobody here is told by it"),
        (("schedules", "unused"), "nothing uses this schedule"),
        (("slack", "hooks", "lonely"), "no group posts to this hook"),
    ]


def test_what_groups_lose_by_naming_recipients_of_their_own_is_reported(load: Load) -> None:
    found = load(
        """
        groups:
          ops: {email: [ops@example.com, admin@example.com], sms: 010-1111-2222}
          dispatchers: {slack: default}
        default: {groups: ops}
        """
    )
    alone = "a group that names recipients has those alone"
    assert list(audiences.warnings(found)) == [
        (("groups", "dispatchers"), "no route leads to this group"),
        (
            ("slack", "webhook_url"),
            f"no alert goes to SLACK_WEBHOOK_URL: {alone}; add slack: [default] to one",
        ),
        (("sms", "to"), f"no alert goes to some of ALERT_SMS_TO: {alone}; add them to one"),
        (("default",), "info alerts reach nobody: none of these groups has recipients for slack"),
    ]


def test_nothing_is_odd_about_an_ordinary_file(load: Load) -> None:
    assert list(audiences.warnings(load(SCHEDULES))) == []
