"""The units are tight without falsifying the host's figures, and installing is done, done again, and undone."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from exporter.settings import ExporterSettings
from receiver.settings import ReceiverSettings
from serving.settings import environment_names
from tests.deployments.engine import checkout
from tests.deployments.gateway import DEPLOY
from tests.programs import program

SYSTEMD = DEPLOY / "systemd"
NAMES = ("exporter", "receiver")
CURRENT = "opt/coldchain-monitor/current"


def unit(name: str) -> dict[str, list[str]]:
    """The values of each key of [Service], which may stand there more than once."""
    values: dict[str, list[str]] = {}
    section = ""
    for line in (SYSTEMD / f"coldchain-{name}.service").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize("name", NAMES)
def test_the_sandbox_is_tight(name: str) -> None:
    file = SYSTEMD / f"coldchain-{name}.service"
    command = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", str(file)]
    subprocess.run([*command, "--threshold=25"], check=True, capture_output=True)  # tenths: an exposure of 2.5
    loose = subprocess.run([*command, "--threshold=5"], check=False, capture_output=True)
    assert loose.returncode != 0  # the threshold is heeded


@pytest.mark.parametrize(
    ("key", "falsifies"),
    [
        ("ProcSubset", {"pid"}),  # /proc/stat, meminfo and net/dev are gone
        ("ProtectProc", {"invisible", "noaccess", "ptraceable"}),  # process 1's mountinfo is gone
        ("ProtectHome", {"yes", "true", "tmpfs"}),  # something else lies over /home
        ("PrivateNetwork", {"yes", "true"}),  # the counters of an empty network
        ("MountFlags", {"private"}),  # what is mounted later is not seen
    ],
)
def test_the_exporters_sandbox_leaves_the_hosts_figures_as_they_are(key: str, falsifies: set[str]) -> None:
    assert not falsifies & set(unit("exporter").get(key, []))


@pytest.mark.parametrize("key", ["InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "RootImage", "BindPaths"])
def test_the_exporter_sees_the_hosts_own_file_systems(key: str) -> None:
    assert key not in unit("exporter")


def test_the_receiver_has_the_time_to_give_back_what_it_holds() -> None:
    (value,) = unit("receiver")["TimeoutStopSec"]
    assert int(value.removesuffix("s")) > 10


@pytest.mark.parametrize(("name", "model"), [("exporter", ExporterSettings), ("receiver", ReceiverSettings)])
def test_the_example_environment_names_settings_that_exist(
    name: str, model: type[ExporterSettings | ReceiverSettings]
) -> None:
    known = environment_names(model).keys()
    lines = (SYSTEMD / f"{name}.env").read_text("utf-8").splitlines()
    named = {line.removeprefix("#").partition("=")[0] for line in lines if line[:1] == "#" and line[1:2].isupper()}
    named = {text for text in named if text.replace("_", "").isalnum() and text.isupper()} - {"ARGS"}
    assert named
    assert {text.removesuffix("_FILE") for text in named} <= known


@pytest.fixture(scope="module")
def installer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """install.sh of a checkout that nobody edits meanwhile."""
    return str(checkout(tmp_path_factory.mktemp("source") / "checkout") / "deploy/systemd/install.sh")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, installer: str, offline: dict[str, str]) -> Path:
    """A tree into which everything was installed."""
    folder = tmp_path_factory.mktemp("root")
    subprocess.run([installer, "--root", str(folder)], env=offline, check=True, capture_output=True)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, float]]:
    """Mode and time of change of everything under a folder but the programs themselves."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_mtime)
        for path in folder.rglob("*")
        if "opt" not in path.relative_to(folder).parts
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", NAMES)
def test_an_installed_program_runs_and_takes_its_settings(root: Path, name: str) -> None:
    binary = str(root / CURRENT / "bin" / f"coldchain-{name}")
    settings = f"--config.file={root}/etc/coldchain-monitor/{name}.yaml"
    version = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    assert version.startswith(f"coldchain-{name} ")
    subprocess.run(
        [binary, settings, "check-config"], check=True, capture_output=True, cwd=root, env={"PATH": "/usr/bin"}
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_command_runs_as_the_service_does(root: Path, tmp_path: Path, name: str) -> None:
    told = tmp_path / "systemd-run"
    told.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    told.chmod(0o755)
    command = [str(root / "usr/local/bin/coldchain"), name, "check-config", "--database"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    given = done.stdout.splitlines()
    service = unit(name)
    for key in ("User", "EnvironmentFile", "WorkingDirectory"):
        assert f"--property={key}={service[key][0]}" in given
    program = given.index(f"/opt/coldchain-monitor/current/bin/coldchain-{name}")
    assert given[program:] == [
        *(given[program], f"--config.file=/etc/coldchain-monitor/{name}.yaml"),
        *("check-config", "--database"),
    ]


def test_a_command_of_no_service_is_refused(root: Path) -> None:
    done = subprocess.run([root / "usr/local/bin/coldchain", "doctor"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: coldchain exporter|receiver COMMAND")


@pytest.mark.parametrize("name", NAMES)
def test_secrets_and_settings_are_for_root_and_the_service_alone(root: Path, name: str) -> None:
    etc = root / "etc" / "coldchain-monitor"
    assert [mode(etc / "secrets" / name), mode(etc / f"{name}.env"), mode(etc / f"{name}.yaml")] == [
        0o750,
        0o640,
        0o640,
    ]


def test_the_units_and_all_that_they_need_are_valid(root: Path) -> None:
    # beside what was installed: the system's own units, and the shell that reloads
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True, dirs_exist_ok=True)
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy("/bin/sh", root / "bin")
    command = [program("systemd-analyze"), "verify", "--recursive-errors=yes", "--man=no", f"--root={root}"]
    done = subprocess.run(
        [*command, "coldchain-exporter.service", "coldchain-receiver.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

    file = root / "etc/systemd/system/coldchain-wrong.service"
    file.write_text((SYSTEMD / "coldchain-exporter.service").read_text("utf-8").replace("ProtectHome", "ProtectHomes"))
    wrong = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
    file.unlink()
    assert wrong.returncode != 0
    assert "ProtectHomes" in wrong.stderr


def test_installing_again_changes_nothing_and_keeps_what_was_edited(
    root: Path, installer: str, offline: dict[str, str]
) -> None:
    edited = root / "etc/coldchain-monitor/exporter.env"
    edited.write_text("DATABASE_URL=postgresql://edited\n")
    before = listing(root / "etc")
    link = (root / CURRENT).readlink()
    subprocess.run([installer, "--root", str(root)], env=offline, check=True, capture_output=True)
    assert listing(root / "etc") == before
    assert (root / CURRENT).readlink() == link
    assert edited.read_text() == "DATABASE_URL=postgresql://edited\n"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    command = [str(SYSTEMD / "install.sh"), "--root", str(tmp_path), "--dry-run"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(line.startswith("would run: ") for line in said.splitlines())
    assert f"{tmp_path}/etc/systemd/system/coldchain-receiver.service" in said
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_flag_is_refused_before_anything_is_done() -> None:
    for script in ("install.sh", "uninstall.sh"):
        done = subprocess.run([str(SYSTEMD / script), "--rot=/tmp"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_uninstalling_keeps_settings_and_store_until_they_are_to_go_too(root: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-al", str(root), str(tmp_path)], check=True)  # as links: what is removed here stays there
    root = tmp_path / root.name
    store = root / "var/lib/coldchain-receiver/receiver.db"
    store.parent.mkdir(parents=True)
    store.write_text("what is still to be delivered")
    env = root / "etc/coldchain-monitor/receiver.env"
    subprocess.run([str(SYSTEMD / "uninstall.sh"), "--root", str(root)], check=True, capture_output=True)
    gone = ["opt/coldchain-monitor", "usr/share/coldchain-monitor", "etc/systemd/system/coldchain-exporter.service"]
    assert [path for path in gone if (root / path).exists()] == []
    assert store.exists()
    assert env.exists()
    subprocess.run([str(SYSTEMD / "uninstall.sh"), "--root", str(root), "--purge"], check=True, capture_output=True)
    assert [path.exists() for path in (store, env)] == [False, False]
