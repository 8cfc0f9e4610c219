"""The guide's variables are enough; what is wrong is named with its place and never repeated."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from receiver.settings import ReceiverSettings, load
from serving.settings import ConfigError, environment_names

GUIDE = {
    "SMTP_HOST": "smtp.gmail.com",
    "SMTP_PORT": "587",
    "SMTP_USER": "your_email@gmail.com",
    "SMTP_PASSWORD": "mail-secret",
    "SMTP_FROM": "noreply@yourdomain.com",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/YOUR/WEBHOOK/URL",
    "ALIGO_API_KEY": "aligo-secret",
    "ALIGO_USER_ID": "your_aligo_user_id",
    "ALIGO_SENDER": "01012345678",
    "ALERT_EMAIL_TO": "admin@example.com, dispatch@example.com",
    "ALERT_SMS_TO": "010-1111-2222,+82 10-3333-4444",
}


def test_guides_variables_switch_every_channel_on() -> None:
    found = load(environ=GUIDE, config_file=None, dotenv=None)
    assert found.missing == {"email": (), "slack": (), "sms": ()}
    assert (found.email.encryption, found.email.port) == ("starttls", 587)
    assert found.email.to == ("admin@example.com", "dispatch@example.com")
    assert found.sms.to == ("01011112222", "01033334444")
    assert found.sms.sender == "01012345678"


def test_contracts_other_variables_are_read() -> None:
    environ = {
        "SMTP_TLS": "implicit",
        "ALIGO_BASE_URL": "http://127.0.0.1:19120/aligo/",
        "ALIGO_TESTMODE": "true",
        "RECEIVER_LOCALE": "en",
        "RECEIVER_TOKEN": "t",
        "RECEIVER_DATABASE_URL": "postgresql://h/d",
        "ALERTMANAGER_URL": "http://127.0.0.1:9093",
    }
    found = load(environ=environ, config_file=None, dotenv=None)
    assert (found.email.tls, found.sms.base_url, found.sms.test_mode) == (
        "implicit",
        "http://127.0.0.1:19120/aligo",
        True,
    )
    assert (found.locale, found.alertmanager_url) == ("en", "http://127.0.0.1:9093")
    assert found.token is not None
    assert (found.token.get_secret_value(), found.database_url.get_secret_value()) == ("t", "postgresql://h/d")


def test_nothing_is_needed() -> None:
    found = load(environ={}, config_file=None, dotenv=None)
    assert found.missing == {
        "email": ("SMTP_HOST", "ALERT_EMAIL_TO"),
        "slack": ("SLACK_WEBHOOK_URL",),
        "sms": ("ALIGO_API_KEY", "ALERT_SMS_TO"),
    }
    assert (found.dedup_window, found.retention, found.max_body_bytes) == (
        timedelta(minutes=20),
        timedelta(days=90),
        16 * 2**20,
    )


@pytest.mark.parametrize("name", ["SMTP_PASSWORD", "SLACK_WEBHOOK_URL", "ALIGO_API_KEY", "RECEIVER_TOKEN"])
def test_secret_may_be_in_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(f"{GUIDE.get(name, 'token')}\n")
    environ = {key: value for key, value in GUIDE.items() if key != name}
    found = load(environ=environ | {f"{name}_FILE": str(tmp_path / "secret")}, config_file=None, dotenv=None)
    secrets = {
        "SMTP_PASSWORD": found.email.password,
        "SLACK_WEBHOOK_URL": found.slack.webhook_url,
        "ALIGO_API_KEY": found.sms.api_key,
        "RECEIVER_TOKEN": found.token,
    }
    secret = secrets[name]
    assert secret is not None
    assert secret.get_secret_value() == GUIDE.get(name, "token")


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (GUIDE | {"SMTP_TLS": "none"}, "the password would travel in the clear"),
        (GUIDE | {"SMTP_PASSWORD": ""}, "user (SMTP_USER) and password (SMTP_PASSWORD) go together"),
        (GUIDE | {"ALERT_EMAIL_TO": "admin"}, "ALERT_EMAIL_TO"),
        (GUIDE | {"ALERT_SMS_TO": "010"}, "ALERT_SMS_TO"),
        (GUIDE | {"SLACK_WEBHOOK_URL": "hooks.slack.com/services/T0/B0/geheim"}, "SLACK_WEBHOOK_URL"),
        (GUIDE | {"SLACK_WEBHOOK_URL": "https://hooks.slack.com:geheim/"}, "SLACK_WEBHOOK_URL"),
        (GUIDE | {"ALIGO_BASE_URL": "apis.aligo.in"}, "expected an address such as https://apis.aligo.in"),
        (GUIDE | {"ALERTMANAGER_URL": "127.0.0.1:9093"}, "expected an address such as http://127.0.0.1:9093"),
        (GUIDE | {"EXPORTER_URL": "http://[::1"}, "expected an address such as http://127.0.0.1:19110"),
        (GUIDE | {"HEARTBEAT_PING_URL": "hc-ping.com/geheim"}, "expected an address such as https://hc-ping.com/…"),
        (GUIDE | {"SLACK_WEBHOOK_URL": GUIDE["SLACK_WEBHOOK_URL"] + " # ours"}, "SLACK_WEBHOOK_URL"),
        (GUIDE | {"SMTP_HOST": "smtp.gmail.com:587"}, "SMTP_HOST: email.host: expected the server's name alone"),
        (GUIDE | {"SMTP_HOST": "smtp://smtp.gmail.com"}, "SMTP_HOST: email.host: expected the server's name alone"),
        (GUIDE | {"RECEIVER_DATABASE_URL": "mysql://u:geheim@h/d"}, "RECEIVER_DATABASE_URL"),
        (GUIDE | {"RECEIVER_DATABASE_URL": "postgresql://u:p@ss:geheim@h/d"}, "RECEIVER_DATABASE_URL"),
        (GUIDE | {"RECEIVER_LOCALE": "fr"}, "RECEIVER_LOCALE"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_repeated(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ, config_file=None, dotenv=None)
    assert problem in str(caught.value)
    for secret in ("geheim", "mail-secret", "aligo-secret"):
        assert secret not in str(caught.value)


def test_report_needs_days_to_be_sent_on(tmp_path: Path) -> None:
    file = tmp_path / "receiver.yaml"
    file.write_text('report: {at: ["08:00"], days: []}\n')
    with pytest.raises(ConfigError) as caught:
        load(environ=GUIDE, config_file=file, dotenv=None)
    assert str(caught.value) == f"{file}:1: report.days: must name at least one"


def test_report_without_recipients_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "receiver.yaml").write_text("report: {at: [08:00]}\n")
    with pytest.raises(ConfigError) as caught:
        load(environ={}, config_file=tmp_path / "receiver.yaml", dotenv=None)
    assert caught.value.problems == [
        "settings: report.at is given, but neither report.to nor email.to (ALERT_EMAIL_TO)"
    ]


def test_shipped_file_names_every_variable() -> None:
    shipped = (Path(__file__).parents[2] / "deploy" / "receiver" / "receiver.yaml").read_text(encoding="utf-8")
    assert [name for name in environment_names(ReceiverSettings) if name not in shipped] == []
