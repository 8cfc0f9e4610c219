"""`make up`: the whole chain on this machine under supervisord, until Ctrl-C.

The company and the sandbox stand in for what is not given: `DATABASE_URL` replaces the company, and `SMTP_HOST`,
`SLACK_WEBHOOK_URL` and `ALIGO_API_KEY` each replace the sandbox's mail server, Slack or Aligo.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import psutil
import requests
from dotenv import dotenv_values
from supervisor.xmlrpc import SupervisorTransport

from deploy.demo.company import DemoError, connect
from deploy.prometheus.quicken import quicken

PATIENCE = 90  # seconds that all of it may take to become healthy
SANDBOX_SMTP_PORT = 19125
STATE = Path(".run")
TEMPERATURES = Path(__file__).parent.parent / "exporter" / "vehicle-temperature.yaml"


@dataclass(frozen=True)
class Program:
    """One process of the chain: how it is started, and how one sees that it is ready."""

    name: str
    command: list[str]
    port: int | None
    ready: Callable[[], bool]
    what: str
    environment: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    """The program that must be ready before this one is started."""


def main() -> int:
    """Runs until Ctrl-C; 1 where something could not be started."""
    options = _options()
    environ = {**{k: v for k, v in dotenv_values(".env").items() if v}, **os.environ}
    state = options.state.absolute()
    programs, missing = _programs(options, state, environ)
    if _taken(programs):
        return 1
    own = not any(environ.get(name) for name in ("DATABASE_URL", "SMTP_HOST", "SLACK_WEBHOOK_URL", "ALIGO_API_KEY"))
    if own:  # nothing in it is of use later; with a real database or channel it holds what is still to be delivered
        shutil.rmtree(state, ignore_errors=True)
    (state / "log").mkdir(parents=True, exist_ok=True)
    _write_configuration(options, state, demo=not environ.get("DATABASE_URL"))
    try:
        with _stop_signals(), _supervised(state, programs) as supervisor:
            if not _wait_until_ready(programs, supervisor, state):
                return 1
            print(_table(options, programs, missing, environ), flush=True)
            _watch(supervisor, state)
    except KeyboardInterrupt:
        pass
    finally:
        if own:
            shutil.rmtree(state, ignore_errors=True)
        else:
            print(f"What the receiver still has to deliver stays in {state}.")
    print("Everything has ended.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make up", description="The whole chain on this machine, until Ctrl-C.")
    parser.add_argument("--state", type=Path, default=STATE, help="folder for data and logs (default: .run)")
    for name, port in {
        "exporter": 19110,
        "receiver": 19111,
        "sandbox": 19120,
        "smtp": SANDBOX_SMTP_PORT,
        "prometheus": 9090,
        "alertmanager": 9093,
    }.items():
        parser.add_argument(f"--{name}-port", type=int, default=port, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="the company's days are the same for the same seed")
    return parser.parse_args()


def _programs(options: argparse.Namespace, state: Path, environ: Mapping[str, str]) -> tuple[list[Program], list[str]]:
    """What is to run, in the order of the chain, and what is not to be had here."""
    missing = []
    found = [] if environ.get("DATABASE_URL") else [_company(options, state)]
    found += [_sandbox(options), _exporter(options, state, environ), _receiver(options, state, environ)]
    if path := shutil.which("prometheus"):
        found.append(_prometheus(path, options, state))
    else:
        missing.append("Prometheus: apt-get install prometheus")
    if path := shutil.which("prometheus-alertmanager") or shutil.which("alertmanager"):
        found.append(_alertmanager(path, options, state))
    else:
        missing.append("Alertmanager: apt-get install prometheus-alertmanager")
    return found, missing


def _company(options: argparse.Namespace, state: Path) -> Program:
    database = state / "company.db"
    seed = ["--seed", str(options.seed)] if options.seed is not None else []
    return Program(
        "company",
        [sys.executable, "-m", "deploy.demo.company", "run", "--database", str(database), *seed],
        None,
        partial(_is_open, database),
        "the demo's dispatch company, in an SQLite file",
    )


def _sandbox(options: argparse.Namespace) -> Program:
    return Program(
        "sandbox",
        [
            *(sys.executable, "-m", "deploy.demo.sandbox"),
            *("--http", f"127.0.0.1:{options.sandbox_port}", "--smtp", f"127.0.0.1:{options.smtp_port}"),
        ],
        options.sandbox_port,
        partial(_answers, f"http://127.0.0.1:{options.sandbox_port}/-/healthy"),
        "what arrived: phone, Slack and mailbox",
    )


def _exporter(options: argparse.Namespace, state: Path, environ: Mapping[str, str]) -> Program:
    real_database = environ.get("DATABASE_URL")
    return Program(
        "exporter",
        [
            *(sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{options.exporter_port}"),
            *(() if real_database else (f"--config.file={TEMPERATURES}",)),
        ],
        options.exporter_port,
        partial(_answers, f"http://127.0.0.1:{options.exporter_port}/-/ready"),
        "exporter: metrics of host, database and business",
        {} if real_database else {"DATABASE_URL": f"sqlite:///{state / 'company.db'}"},
        after="" if real_database else "company",  # else its first looks find no tables
    )


def _receiver(options: argparse.Namespace, state: Path, environ: Mapping[str, str]) -> Program:
    return Program(
        "receiver",
        [sys.executable, "-m", "receiver", f"--web.listen-address=127.0.0.1:{options.receiver_port}"],
        options.receiver_port,
        partial(_answers, f"http://127.0.0.1:{options.receiver_port}/-/ready"),
        "receiver: what was told to whom, and what became of it",
        {
            "RECEIVER_DATABASE_URL": f"sqlite:///{state / 'receiver.db'}",
            "ALERTMANAGER_URL": f"http://127.0.0.1:{options.alertmanager_port}",
            **_channels(options, environ),
        },
    )


def _channels(options: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """The sandbox's settings of each channel that has none of its own."""
    sandbox = f"http://127.0.0.1:{options.sandbox_port}"
    found: dict[str, str] = {}
    if not environ.get("SMTP_HOST"):
        found |= {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(options.smtp_port),
            "SMTP_TLS": "none",
            "SMTP_FROM": "noreply@coldchain.example",
            "ALERT_EMAIL_TO": environ.get("ALERT_EMAIL_TO") or "admin@coldchain.example",
        }
    if not environ.get("SLACK_WEBHOOK_URL"):
        found["SLACK_WEBHOOK_URL"] = f"{sandbox}/services/T0/B0/sandbox"
    if not environ.get("ALIGO_API_KEY"):
        found |= {
            "ALIGO_API_KEY": "sandbox-key",
            "ALIGO_USER_ID": "sandbox",
            "ALIGO_SENDER": "0212345678",
            "ALIGO_BASE_URL": f"{sandbox}/aligo",
            "ALERT_SMS_TO": environ.get("ALERT_SMS_TO") or "01087654321",
        }
    return found


def _prometheus(path: str, options: argparse.Namespace, state: Path) -> Program:
    return Program(
        "prometheus",
        [
            path,
            f"--config.file={state / 'prometheus.yml'}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{options.prometheus_port}",
            # what the links in messages begin with: by default the name of this host, where nobody listens
            f"--web.external-url=http://localhost:{options.prometheus_port}",
        ],
        options.prometheus_port,
        partial(_answers, f"http://127.0.0.1:{options.prometheus_port}/-/ready"),
        "Prometheus: rules and history",
    )


def _alertmanager(path: str, options: argparse.Namespace, state: Path) -> Program:
    return Program(
        "alertmanager",
        [
            path,
            f"--config.file={state / 'alertmanager.yml'}",
            f"--storage.path={state / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{options.alertmanager_port}",
            f"--web.external-url=http://localhost:{options.alertmanager_port}",
            "--cluster.listen-address=",
        ],
        options.alertmanager_port,
        partial(_answers, f"http://127.0.0.1:{options.alertmanager_port}/-/ready"),
        "Alertmanager: groups, silences",
    )


def _taken(programs: list[Program]) -> bool:
    """Names every port that another program holds."""
    taken = False
    wanted = {program.port: program.name for program in programs if program.port is not None}
    for port, name in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken = True
                print(
                    f"error: port {port}, for the {name}, is taken by {_holder(port)}. "
                    f"Stop it, or choose another: make up UP=--{name}-port={port + 1000}",
                    file=sys.stderr,
                )
    return taken


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("inet"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                with contextlib.suppress(psutil.NoSuchProcess):
                    return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "a program of another user"


def _write_configuration(options: argparse.Namespace, state: Path, *, demo: bool) -> None:
    """Prometheus's and Alertmanager's shipped configuration, with this run's addresses and a scrape every 5 s.

    Runbooks are read from the sandbox, and there is no Grafana to link to. In the demo nobody waits five minutes to be
    told that it is over.
    """
    quicken(
        state,
        scrape_interval="5s",
        hold="30s" if demo else None,
        exporter=f"127.0.0.1:{options.exporter_port}",
        receiver=f"127.0.0.1:{options.receiver_port}",
        alertmanager=f"127.0.0.1:{options.alertmanager_port}",
        smarthost=f"127.0.0.1:{options.smtp_port}",
        email_to="admin@coldchain.example",
        runbooks=f"http://localhost:{options.sandbox_port}/runbooks",
        dashboards="",
    )


class Supervisor:
    """supervisord, asked over its socket."""

    def __init__(self, path: Path) -> None:
        transport = SupervisorTransport("", "", f"unix://{path}")
        self._proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)

    def states(self) -> dict[str, tuple[str, str]]:
        """For each program its state (RUNNING, BACKOFF, FATAL, …) and what supervisord says of it."""
        found = self._proxy.supervisor.getAllProcessInfo()
        if not isinstance(found, list):
            raise TypeError("supervisord gave no list of programs")
        return {info["name"]: (info["statename"], info["description"]) for info in found}

    def start(self, name: str) -> None:
        """Starts a program that waits for another."""
        self._proxy.supervisor.startProcess(name, False)


@contextlib.contextmanager
def _supervised(state: Path, programs: list[Program]) -> Iterator[Supervisor]:
    """supervisord with every program, ended with all of them at the end."""
    control = state / "supervisor.sock"
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": str(state / "log" / "supervisord.log"),
        "pidfile": str(state / "supervisord.pid"),
    }
    config["unix_http_server"] = {"file": str(control), "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    for program in programs:
        config[f"program:{program.name}"] = {
            "command": " ".join(_quoted(part) for part in program.command),
            "directory": _quoted_percent(str(Path.cwd())),
            "environment": ",".join(f'{k}="{_quoted_percent(v)}"' for k, v in program.environment.items()),
            "autostart": "false" if program.after else "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(state / "log" / f"{program.name}.log"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "1",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": "12",  # the receiver may take 10 s to finish or release what it holds
        }
    file = state / "supervisord.conf"
    with file.open("w", encoding="utf-8") as stream:
        config.write(stream)
    # a session of its own: Ctrl-C reaches us alone, and we end the programs in order
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(file)], start_new_session=True
    )
    try:
        deadline = time.monotonic() + 10
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: supervisord did not start: see {state / 'log' / 'supervisord.log'}")
            time.sleep(0.05)
        yield Supervisor(control)
    finally:
        print("\nEnding everything …", flush=True)
        process.terminate()
        process.wait()


def _quoted(part: str) -> str:
    return '"' + _quoted_percent(part).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted_percent(text: str) -> str:
    # supervisord expands %(name)s in every value (Supervisor docs, Configuration File)
    return text.replace("%", "%%")


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """A closed terminal and SIGTERM end everything as Ctrl-C does."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    yield


def _wait_until_ready(programs: list[Program], supervisor: Supervisor, state: Path) -> bool:
    """Says of each program when it is ready; False, with the end of its log, where one is not in time."""
    waiting = {program.name: program for program in programs}
    deadline = time.monotonic() + PATIENCE
    while waiting:
        states = supervisor.states()
        for program in list(waiting.values()):
            if states[program.name][0] == "STOPPED" and program.after not in waiting:
                supervisor.start(program.name)
            elif states[program.name][0] == "RUNNING" and program.ready():
                print(f"  ready: {program.name}", flush=True)
                del waiting[program.name]
            elif states[program.name][0] == "FATAL" or time.monotonic() > deadline:
                print(f"error: {program.name} did not become ready ({states[program.name][1]})", file=sys.stderr)
                print(_last_lines(state, program.name), file=sys.stderr)
                return False
        time.sleep(0.2)
    return True


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def _is_open(database: Path) -> bool:
    """Whether the company has made up its past."""
    try:
        connect(database).close()
    except DemoError:
        return False
    return True


def _last_lines(state: Path, name: str, count: int = 12) -> str:
    lines = (state / "log" / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-count:])


def _table(options: argparse.Namespace, programs: list[Program], missing: list[str], environ: Mapping[str, str]) -> str:
    rows = [(f"http://localhost:{program.port}", program.what) for program in programs if program.port is not None]
    width = max(len(address) for address, _ in rows)
    lines = ["", *(f"  {address:<{width}}  {what}" for address, what in rows), ""]
    lines += [f"  Not running, for want of {text}" for text in missing]
    if environ.get("DATABASE_URL"):
        lines.append("  Watching the database of DATABASE_URL.")
    elif not missing:
        where = "" if options.state == STATE else f" STATE={options.state}"
        sandbox = f"http://localhost:{options.sandbox_port}"
        lines.append(f"  Try: make incident{where}   in another terminal, and watch {sandbox} for two minutes.")
    lines += [f"  Logs: {options.state / 'log'}.  Ctrl-C ends everything.", ""]
    return "\n".join(lines)


def _watch(supervisor: Supervisor, state: Path) -> None:
    """Says when a program has gone or has come back, until a signal ends it."""
    known = supervisor.states()
    while True:
        time.sleep(1)
        states = supervisor.states()
        for name, (status, description) in states.items():
            if status != known[name][0]:
                print(f"  {name}: {status.lower()} ({description}); log: {state / 'log' / name}.log", flush=True)
        known = states


if __name__ == "__main__":
    sys.exit(main())
