"""Layers, places and words of the settings."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from serving.settings import CommaSeparated, ConfigError, Duration, Env, Settings, environment_names, load


class Mail(Settings):
    host: Annotated[str | None, Env("MAIL_HOST")] = None
    port: Annotated[int, Env("MAIL_PORT")] = 25
    password: Annotated[SecretStr | None, Env("MAIL_PASSWORD")] = None
    to: Annotated[CommaSeparated, Env("MAIL_TO")] = ()


class Group(Settings):
    name: str
    wait: Duration = timedelta(seconds=1)


class Everything(Settings):
    mail: Mail = Mail()
    groups: tuple[Group, ...] = ()
    limits: dict[str, Group] = Field(default_factory=dict)
    pause: Duration = timedelta(seconds=15)


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ=environ or {}, config_file=file)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_defaults_without_any_layer() -> None:
    assert load(Everything, environ={}) == Everything()


@pytest.mark.parametrize(
    ("flag", "environ", "dotenv", "file", "expected"),
    [
        (1, "2", "3", "4", 1),
        (None, "2", "3", "4", 2),
        (None, "", "3", "4", 3),
        (None, None, None, "4", 4),
        (None, None, None, None, 25),
    ],
)
def test_the_nearest_layer_wins(
    tmp_path: Path, flag: int | None, environ: str | None, dotenv: str | None, file: str | None, expected: int
) -> None:
    (tmp_path / ".env").write_text(f"MAIL_PORT={dotenv}\n" if dotenv else "")
    (tmp_path / "settings.yaml").write_text(f"mail:\n  port: {file}\n" if file else "")
    settings = load(
        Everything,
        flags={"mail.port": flag},
        environ={} if environ is None else {"MAIL_PORT": environ},
        dotenv=tmp_path / ".env",
        config_file=tmp_path / "settings.yaml",
    )
    assert settings.mail.port == expected


def test_a_layer_replaces_one_field_and_leaves_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("mail: {host: mx.example, port: 587}\n")
    settings = load(Everything, environ={"MAIL_HOST": "relay.example"}, config_file=tmp_path / "settings.yaml")
    assert (settings.mail.host, settings.mail.port) == ("relay.example", 587)


def test_a_secret_is_read_from_the_file_that_its_variable_names(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim\n")
    settings = load(Everything, environ={"MAIL_PASSWORD_FILE": str(tmp_path / "password")})
    assert settings.mail.password == SecretStr("geheim")
    assert "geheim" not in repr(settings)


def test_a_secret_is_read_from_the_file_that_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim\n")
    (tmp_path / "settings.yaml").write_text(f"mail:\n  password_file: {tmp_path}/password\n")
    settings = load(Everything, environ={}, config_file=tmp_path / "settings.yaml")
    assert settings.mail.password == SecretStr("geheim")


def test_a_secret_file_that_is_missing_is_named_with_its_setting(tmp_path: Path) -> None:
    assert problems(tmp_path, f"mail:\n  password_file: {tmp_path}/none\n") == [
        "settings.yaml:2: mail.password_file: cannot read none: No such file or directory"
    ]


def test_a_secret_file_of_the_environment_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ={"MAIL_PASSWORD_FILE": f"{tmp_path}/none"})
    assert caught.value.problems == [f"MAIL_PASSWORD_FILE: cannot read {tmp_path}/none: No such file or directory"]


def test_nothing_but_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("mx.example\n")
    assert load(Everything, environ={"MAIL_HOST_FILE": str(tmp_path / "host")}).mail.host is None
    assert problems(tmp_path, f"mail:\n  host_file: {tmp_path}/host\n") == [
        "settings.yaml:2: mail.host_file: unknown setting; allowed here: host, password, port, to"
    ]


def test_a_secret_file_that_is_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ={"MAIL_PASSWORD_FILE": f"{tmp_path}/password"})
    assert caught.value.problems == [f"MAIL_PASSWORD_FILE: {tmp_path}/password is empty"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail:\n  prot: 25\n", "settings.yaml:2: mail.prot: unknown setting; allowed here: host, password, port, to"),
        (
            "mail:\n  host: a\n  port: many\n",
            "settings.yaml:3: mail.port: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("pause: soon\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: -5\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: 2\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: '2'\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: 0.5\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: .inf\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: .nan\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: 99999999999999999999\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("pause: 5000y\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
        ("groups:\n- name: a\n- wait: 5s\n", "settings.yaml:3: groups.1.name: Field required"),
        (
            "limits:\n  one:\n    name: a\n    weight: 1\n",
            "settings.yaml:4: limits.one.weight: unknown setting; allowed here: name, wait",
        ),
        ("pause: 1s\npause: 2s\n", "settings.yaml:2: pause is given twice"),
        ("pause: [1\n", "settings.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("just words\n", "settings.yaml:1: expected settings as `name: value` lines"),
        ("pause: !!python/object:os.system {}\n", "settings.yaml:1: pause: write a duration such as 15s, 5m, 2h or 1d"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"pause: \xb0\xa1\n", "settings.yaml: not UTF-8 text"),
        (
            b"pause: \x01\n",
            "settings.yaml: not valid YAML: unacceptable character #x0001: special characters are not allowed",
        ),
    ],
    ids=["another encoding", "a control character"],
)
def test_a_file_that_is_no_text_is_told(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ={}, config_file=file)
    assert [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [expected]


def test_a_merge_key_gives_what_is_not_said_anew(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "limits:\n"
        "  one: &one {name: a, wait: 5s}\n"
        "  two: &two {<<: *one, name: b}\n"
        "  three: *two\n"
        "  four: {name: d, <<: [{wait: 6s}, *one]}\n"
    )
    assert {
        name: (one.name, one.wait) for name, one in load(Everything, environ={}, config_file=file).limits.items()
    } == {
        "one": ("a", timedelta(seconds=5)),
        "two": ("b", timedelta(seconds=5)),
        "three": ("b", timedelta(seconds=5)),
        "four": ("d", timedelta(seconds=6)),
    }


def test_a_key_given_twice_beside_a_merge_key_is_told(tmp_path: Path) -> None:
    text = "limits:\n  one: &one {name: a}\n  two: {<<: *one, name: b, name: c}\n"
    assert problems(tmp_path, text) == ["settings.yaml:3: name is given twice"]


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    assert problems(tmp_path, "", {"MAIL_PORT": "many"}) == [
        "MAIL_PORT: mail.port: Input should be a valid integer, unable to parse string as an integer"
    ]


def test_a_dotenv_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"MAIL_HOST=\xb0\xa1\n")
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ={}, dotenv=tmp_path / ".env")
    assert caught.value.problems == [f"{tmp_path}/.env: cannot be read: not UTF-8 text"]


def test_a_section_that_is_none_is_told_even_where_the_environment_fills_it(tmp_path: Path) -> None:
    assert problems(tmp_path, "pause: 1s\nmail: x\n", {"MAIL_PORT": "1"}) == [
        "settings.yaml:2: mail: expected settings as `name: value` lines"
    ]


def test_a_bad_secret_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    assert problems(tmp_path, "mail:\n  password: [s3cret]\n") == [
        'settings.yaml:2: mail.password: expected text: write it between quotation marks, as in "010"'
    ]


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Everything, environ={}, config_file=tmp_path / "none.yaml")
    assert caught.value.problems == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]


@pytest.mark.parametrize(("text", "seconds"), [("15s", 15), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172800), ("0", 0)])
def test_durations_read_as_in_prometheus(tmp_path: Path, text: str, seconds: float) -> None:
    (tmp_path / "settings.yaml").write_text(f"pause: {text}\n")
    settings = load(Everything, environ={}, config_file=tmp_path / "settings.yaml")
    assert settings.pause == timedelta(seconds=seconds)


def test_a_comma_separated_variable_becomes_its_parts() -> None:
    assert load(Everything, environ={"MAIL_TO": "a@x.kr, b@x.kr,"}).mail.to == ("a@x.kr", "b@x.kr")


def test_every_environment_variable_of_a_model_is_listed() -> None:
    assert environment_names(Everything) == {
        "MAIL_HOST": ("mail", "host"),
        "MAIL_PORT": ("mail", "port"),
        "MAIL_PASSWORD": ("mail", "password"),
        "MAIL_TO": ("mail", "to"),
    }
