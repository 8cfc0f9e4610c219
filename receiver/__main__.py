"""`coldchain-receiver`: puts the receiver together and serves it."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from receiver import check, direct, doctor, explain, preview, settings
from receiver.app import create_app
from receiver.channels.sms import normalised
from receiver.outbox import Outbox
from receiver.service import Receiver
from receiver.settings import ReceiverSettings
from receiver.store import Store, StoreUnavailableError, read_url
from serving import command, logs
from serving.reload import Reload
from serving.settings import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 after a clean end, 1 where the settings are wrong or it cannot listen."""
    options = _options(arguments)
    logs.configure(options.log_level, options.log_format)
    try:
        found = settings.load(environ=os.environ, config_file=options.config_file)
    except ConfigError as error:
        command.report(error)
        return 1
    reports = {
        "check-config": check.run,
        "route": explain.run,
        "preview": preview.run,
        "test": direct.run_test,
        "report": direct.run_report,
    }
    if options.command in reports:
        return command.quietly(lambda: reports[options.command](options, found))
    if options.command == "doctor":
        return command.quietly(lambda: _examine(options, found))
    if options.command == "erase":
        return _erase(found, options.address)
    return _serve(options, found)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser, commands = command.parser(
        "coldchain-receiver",
        "Takes Alertmanager's notifications and delivers them by email, Slack and SMS. "
        "Settings: flag, environment, .env, file, default.",
        version("coldchain-monitor"),
        default_address="127.0.0.1:19111",
    )
    commands.add_parser("check-config", help="check the settings and exit: 1 with the line at fault if one is wrong")
    commands.add_parser("doctor", help="try every outside thing it depends on; exit 1 if one is at fault")
    explain.add(commands)
    preview.add(commands)
    direct.add(commands)
    erase = commands.add_parser("erase", help="take a recipient's address out of the history")
    erase.add_argument("address", help="a mail address or a number")
    return parser.parse_args(arguments)


def _examine(options: argparse.Namespace, found: ReceiverSettings) -> int:
    good = True
    for finding in itertools.chain(doctor.examine_door(options, found), doctor.examine(found)):
        print(finding, flush=True)
        good = good and finding.good is not False
    return 0 if good else 1


def _erase(found: ReceiverSettings, address: str) -> int:
    url = read_url(found.database_url.get_secret_value())
    where = url.set(query={}).render_as_string(hide_password=True)
    store = Store(url)
    store.start()
    try:
        if store.inspect().revision is None:  # not the service's: 0 deliveries of it would be no answer
            print(
                f"error: there is no history in {where}. Give RECEIVER_DATABASE_URL as the service has it.",
                file=sys.stderr,
            )
            return 1
        count = Outbox(store, "erase").erase(_as_stored(address), now=datetime.now(UTC))
    except StoreUnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    print(f"taken out of {count} deliveries in {where}")
    return 0


def _as_stored(address: str) -> str:
    """A number may be written in more ways than one."""
    try:
        return normalised(address)
    except ValueError:
        return address


def _serve(options: argparse.Namespace, found: ReceiverSettings) -> int:
    def step() -> None:
        receiver.reload(settings.load(environ=os.environ, config_file=options.config_file))

    reload = Reload(step)
    receiver = Receiver(found, version("coldchain-monitor"), reloaded=lambda: reload.successful)
    app = create_app(receiver, reload=reload, allow_anonymous=options.allow_anonymous)
    return command.run(
        app, options, reload=reload, token=lambda: receiver.settings.token, refused=receiver.metrics.refused
    )


if __name__ == "__main__":
    sys.exit(main())
