"""`python -m deploy.demo.sandbox`: runs it until SIGTERM or SIGINT."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.demo.sandbox.aligo import AligoAccount
from deploy.demo.sandbox.server import Address, Options, Sandbox
from deploy.demo.sandbox.smtp import Account


def address(text: str) -> Address:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, as in 127.0.0.1:19120")
    return host.strip("[]"), int(port)


def options(arguments: Sequence[str] | None = None) -> Options:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.sandbox",
        description="A mail server, a Slack webhook and an Aligo endpoint that keep what they get and show it.",
    )
    add = parser.add_argument
    add("--http", type=address, default=("127.0.0.1", 19120), metavar="HOST:PORT", help="page, Slack, Aligo, control")
    add("--smtp", type=address, default=("127.0.0.1", 19125), metavar="HOST:PORT", help="with --smtp-cert: STARTTLS")
    add("--smtps", type=address, metavar="HOST:PORT", help="SMTP with implicit TLS")
    add("--smtp-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    add("--smtp-key", type=Path, metavar="FILE", help="its private key, PEM")
    add("--smtp-user", metavar="NAME", help="then AUTH is required")
    add("--smtp-password", default="", metavar="PASSWORD", help="of a mail account that exists nowhere else")
    add("--slack-rate", type=float, default=1, metavar="N", help="messages a second per hook, 0: no limit (default 1)")
    add("--slack-burst", type=int, default=5, metavar="N", help="messages at once before the rate counts (default 5)")
    add("--aligo-key", default=AligoAccount.key, metavar="KEY", help="default %(default)s")
    add("--aligo-user", default=AligoAccount.user_id, metavar="ID", help="default %(default)s")
    add(
        "--aligo-senders",
        default=",".join(AligoAccount.senders),
        metavar="N,…",
        help="registered (default %(default)s)",
    )
    add("--aligo-balance", type=int, default=100_000, metavar="N", help="short messages that it pays (default 100000)")
    add("--keep", type=int, default=5_000, metavar="N", help="messages kept of each channel (default 5000)")
    found = parser.parse_args(arguments)
    if (found.smtps or found.smtp_key) and not found.smtp_cert:
        parser.error("--smtps and --smtp-key need --smtp-cert")
    return Options(
        http=found.http,
        smtp=found.smtp,
        smtps=found.smtps,
        certificate=found.smtp_cert,
        key=found.smtp_key,
        smtp_account=Account(found.smtp_user, found.smtp_password) if found.smtp_user else None,
        slack_rate=found.slack_rate,
        slack_burst=found.slack_burst,
        aligo=AligoAccount(found.aligo_key, found.aligo_user, tuple(found.aligo_senders.split(","))),
        aligo_balance=found.aligo_balance,
        keep=found.keep,
    )


def main() -> int:
    """Start, say where, and wait for the end."""
    chosen = options()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the thread, which inherits it: sigwait alone gets them
    try:
        sandbox = Sandbox(chosen)
    except OSError as error:
        print(f"sandbox: {error.strerror or error}", file=sys.stderr)
        return 1
    with sandbox:
        print(json.dumps(sandbox.addresses()), flush=True)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
