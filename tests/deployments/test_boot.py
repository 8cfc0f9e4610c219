"""install.sh on a system that systemd has booted: the services run in their sandbox and tell the host's own figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.deployments.engine import Engine, checkout
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"
# figures that two processes find alike at whatever moment they look
STEADY = ("_size_bytes", "_total_bytes", "_cpus")


@dataclass
class Machine:
    """A container whose first process is systemd."""

    engine: Engine
    name: str

    def run(self, *command: str) -> str:
        """What the command prints inside."""
        return self.engine.docker("exec", self.name, *command)

    def shell(self, script: str) -> str:
        """What the script prints inside."""
        return self.run("sh", "-ec", script)

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--value", "--property", key).strip()

    def ready(self, port: int) -> bool:
        with contextlib.suppress(AssertionError):
            return "Ready" in self.run("python3", "-c", FETCH, f"http://127.0.0.1:{port}/-/ready")
        return False

    def samples(self, port: int) -> dict[str, float]:
        """What an exporter shows of the host and of its limits."""
        text = self.run("python3", "-c", FETCH, f"http://127.0.0.1:{port}/metrics")
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("coldchain_")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture(scope="module")
def machine(engine: Engine, python_image: str) -> Iterator[Machine]:
    """Booted, and installed upon by the README's one command."""
    source = checkout(engine.folder / "source")
    engine.docker(
        *("run", "--detach", "--name", "machine", "--network", "host", "--cgroupns", "host"),
        # what systemd needs of a container; SYS_RESOURCE, which it can do without, is not everywhere to be given
        *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"),
        *("--security-opt", "apparmor=unconfined", "--tmpfs", "/run", "--tmpfs", "/tmp"),
        *("--volume", "/sys/fs/cgroup:/sys/fs/cgroup", "--env", "container=docker"),
        *("--volume", f"{source}:/source", python_image, "/lib/systemd/systemd"),
    )
    machine = Machine(engine, "machine")
    try:

        def booted() -> bool:
            with contextlib.suppress(AssertionError):
                return "running" in machine.shell("systemctl is-system-running || true")
            return False

        try:
            until(booted, "systemd has booted", 60, 0.3)
        except AssertionError as error:
            pytest.skip(
                f"systemd does not boot in a container here: {error}: {engine.docker('logs', 'machine')[-500:]}"
            )
        machine.run("/source/deploy/systemd/install.sh")
        until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)
        yield machine
    finally:
        with contextlib.suppress(AssertionError):
            engine.docker("rm", "--force", "--volumes", "machine")


def test_both_run_as_users_of_their_own(machine: Machine) -> None:
    for name in ("coldchain-exporter", "coldchain-receiver"):
        assert machine.show(name, "ActiveState") == "active"
        assert machine.shell(f"stat -c %U /proc/{machine.show(name, 'MainPID')}").strip() == name
    assert machine.shell("stat -c '%U %a' /var/lib/coldchain-receiver").split() == ["coldchain-receiver", "700"]


def test_the_sandbox_falsifies_no_figure_of_the_host(machine: Machine) -> None:
    machine.run(
        *("systemd-run", "--unit=plain", "/opt/coldchain-monitor/current/bin/coldchain-exporter"),
        "--web.listen-address=127.0.0.1:29110",
    )
    until(lambda: machine.ready(29110), "an exporter without a sandbox is ready", 60, 0.3)
    until(lambda: "coldchain_host_cpu_usage_ratio" in machine.samples(29110), "it has looked twice", 30, 0.5)
    boxed, plain = ({n: v for n, v in machine.samples(port).items() if "_host_" in n} for port in (19110, 29110))
    machine.run("systemctl", "stop", "plain")
    assert boxed.keys() == plain.keys()
    steady = [name for name in plain if name.partition("{")[0].endswith(STEADY) and "network" not in name]
    assert {name.partition("{")[0] for name in steady} == {
        "coldchain_host_cpus",
        "coldchain_host_memory_total_bytes",
        "coldchain_host_filesystem_size_bytes",
    }
    assert {name: boxed[name] for name in steady} == {name: plain[name] for name in steady}


def test_a_reload_reads_the_settings_again_without_a_restart(machine: Machine) -> None:
    limit = 'coldchain_alert_threshold{alert="ColdChainOrdersWaiting",severity="warning"}'
    assert machine.samples(19110)[limit] == 10
    before = machine.show("coldchain-exporter", "MainPID")
    machine.shell("sed -i 's/ColdChainOrdersWaiting: {warning: 10}/ColdChainOrdersWaiting: {warning: 25}/' "
                  "/etc/coldchain-monitor/exporter.yaml")  # fmt: skip
    machine.run("systemctl", "reload", "coldchain-exporter", "coldchain-receiver")
    until(lambda: machine.samples(19110)[limit] == 25, "the new limit is in force", 20, 0.3)
    assert machine.show("coldchain-exporter", "MainPID") == before


def test_a_service_that_is_killed_comes_back(machine: Machine) -> None:
    before = machine.show("coldchain-receiver", "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "coldchain-receiver")
    until(lambda: machine.show("coldchain-receiver", "MainPID") not in {before, "0"}, "it runs again", 30, 0.3)
    until(lambda: machine.ready(19111), "it is ready again", 30, 0.3)


def test_stopping_is_clean(machine: Machine) -> None:
    machine.run("systemctl", "restart", "coldchain-exporter", "coldchain-receiver")
    until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)
    machine.run("systemctl", "stop", "coldchain-exporter", "coldchain-receiver")
    for name in ("coldchain-exporter", "coldchain-receiver"):
        assert [machine.show(name, key) for key in ("Result", "ExecMainStatus")] == ["success", "0"]
    machine.run("systemctl", "start", "coldchain-exporter", "coldchain-receiver")


def test_an_upgrade_keeps_what_was_edited_and_the_version_before(machine: Machine) -> None:
    machine.shell(
        "echo '# edited' >> /etc/coldchain-monitor/receiver.env; echo '# newer' >> /source/exporter/__init__.py"
    )
    before = machine.shell("readlink /opt/coldchain-monitor/current").strip()
    pid = machine.show("coldchain-exporter", "MainPID")
    machine.run("/source/deploy/systemd/install.sh")
    after = machine.shell("readlink /opt/coldchain-monitor/current").strip()
    assert after != before
    assert set(machine.shell("ls /opt/coldchain-monitor").split()) == {"current", before, after}
    assert machine.shell("tail -n 1 /etc/coldchain-monitor/receiver.env").strip() == "# edited"
    assert machine.show("coldchain-exporter", "MainPID") != pid
    until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)


def test_uninstalling_with_purge_leaves_nothing(machine: Machine) -> None:
    machine.run("/source/deploy/systemd/uninstall.sh", "--purge")
    left = machine.run(
        *("find", "/", "-xdev", "(", "-path", "/source", "-o", "-path", "/proc", ")", "-prune"),
        *("-o", "-name", "*coldchain*", "-print"),
    )
    assert left.split() == []
    assert "coldchain" not in machine.shell("cat /etc/passwd /etc/group")
    assert machine.shell("systemctl list-units --all 'coldchain*' --plain --no-legend").strip() == ""
