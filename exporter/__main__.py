"""`coldchain-exporter`: puts the exporter together and serves it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from exporter.api import Cors
from exporter.app import create_app
from exporter.collector import Collector
from exporter.databases import Shared
from exporter.metrics import process_families, refusal_family
from exporter.settings import ExporterSettings
from exporter.snapshot import Board, Snapshot
from exporter.sources import plans
from serving import command, logs
from serving.authentication import Failures
from serving.reload import Reload
from serving.settings import ConfigError, load

log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 after a clean end, 1 where the settings are wrong or it cannot listen."""
    options = _options(arguments)
    logs.configure(options.log_level, options.log_format)
    try:
        settings = _load(options)
    except ConfigError as error:
        command.report(error)
        return 1
    if options.command == "check-config":
        return command.quietly(lambda: _check(options, settings))
    if options.command == "doctor":
        return command.quietly(lambda: _examine(options, settings))
    return _serve(options, settings)


class _Reload(Reload):
    """Puts on the board how it went, for `coldchain_config_last_reload_successful`."""

    def __init__(self, step: Callable[[], None], board: Board) -> None:
        super().__init__(step)
        self._board = board

    def __call__(self) -> None:
        try:
            super().__call__()
        finally:
            self._board.change(lambda snapshot: replace(snapshot, reload_successful=self.successful))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser, commands = command.parser(
        "coldchain-exporter",
        "Prometheus exporter of a cold-chain dispatch system: its host, its database, its business. "
        "Settings: flag, environment, .env, file, default.",
        version("coldchain-monitor"),
        default_address="127.0.0.1:19110",
        own=_add_flags,
    )
    checking = commands.add_parser("check-config", help="check the settings and exit: 1 with the line at fault")
    checking.add_argument(
        "--database", dest="check_database", action="store_true", help="also have the database explain every query"
    )
    commands.add_parser("doctor", help="try every outside thing it depends on; exit 1 if one is at fault")
    return parser.parse_args(arguments)


def _add_flags(add: command.Add) -> None:
    add("--path.procfs", dest="procfs", metavar="DIR", help="the host's /proc, seen from a container")
    add("--path.rootfs", dest="rootfs", metavar="DIR", help="the host's /, seen from a container")


def _load(options: argparse.Namespace) -> ExporterSettings:
    return load(
        ExporterSettings,
        flags={"path.procfs": options.procfs, "path.rootfs": options.rootfs},
        environ=os.environ,
        config_file=options.config_file,
        dotenv=Path(".env"),
    )


def _check(options: argparse.Namespace, settings: ExporterSettings) -> int:
    from exporter import check  # noqa: PLC0415 - whoever serves is spared it

    sources = plans(settings)
    problems = list(check.offline(options, settings))
    if options.check_database and settings.database_url is None:
        problems.append("--database: DATABASE_URL is not set")
    elif options.check_database:
        problems += check.with_database(sources, datetime.now(UTC))
    command.report(ConfigError(problems))
    if not problems:
        print(f"The settings are fine. Sources: {', '.join(plan.name for plan in sources)}.")
    return 1 if problems else 0


def _examine(options: argparse.Namespace, settings: ExporterSettings) -> int:
    from exporter import diagnosis, doctor  # noqa: PLC0415 - whoever serves is spared it

    good = True
    for finding in doctor.examine(options, settings):
        print(finding, flush=True)
        good = good and finding.level is not diagnosis.Level.FAULT
    return 0 if good else 1


def _serve(options: argparse.Namespace, settings: ExporterSettings) -> int:
    board = Board(Snapshot(settings=settings))
    process, failures = process_families(), Failures()
    collector = Collector(board, settings.max_age, process=lambda: (*process(), refusal_family(failures.count)))
    shared = Shared()
    if settings.database_url is None:
        off = ", ".join(("database", "orders", "dispatches", "vehicles", *settings.queries))
        log.warning("DATABASE_URL is not set", off=off)

    def step() -> None:
        new = _load(options)
        collector.exchange(plans(new, shared), new.max_age)
        board.change(lambda snapshot: replace(snapshot, settings=new))

    reload = _Reload(step, board)
    app = create_app(
        board,
        collector,
        version=version("coldchain-monitor"),
        reload=reload,
        start=lambda: collector.start(plans(settings, shared)),
    )
    return command.run(
        app,
        options,
        reload=reload,
        token=lambda: None,
        refused=failures,
        stopping=collector.stop,  # nobody waits for a period then
        around=lambda inner: Cors(inner, lambda: board.snapshot.settings.cors_origins),
    )


if __name__ == "__main__":
    sys.exit(main())
