"""Copies the shipped Prometheus and Alertmanager files with shorter timings and other addresses, for tests and demos.

    python3 -m deploy.prometheus.quicken --divide 30 --out /tmp/quick

writes `prometheus.yml`, `rules/` and `alertmanager.yml`, comments and all. Every duration that says when something is
done (scrape and evaluation intervals, `for`, `keep_firing_for`, Alertmanager's waits and intervals) is divided, to no
less than a second; 0 stays 0. Expressions, their ranges and limits, and the hours of `time_intervals` stay as they are.
"""

import argparse
import re
import sys
from pathlib import Path

PROMETHEUS = Path(__file__).resolve().parent
ALERTMANAGER = PROMETHEUS.parent / "alertmanager"
# What the shipped files say, and a site (or a demo) may want otherwise.
SHIPPED = {
    "exporter": "127.0.0.1:19110",
    "receiver": "127.0.0.1:19111",
    "alertmanager": "127.0.0.1:9093",
    "smarthost": "localhost:25",
    "email_to": "root@localhost",
    "runbooks": "http://localhost:8000/runbooks",
    "dashboards": "http://localhost:3000/d",
}
MEANING = {
    "exporter": "address of the exporter",
    "receiver": "address of the receiver",
    "alertmanager": "address of Alertmanager",
    "smarthost": "mail relay of Alertmanager's own email",
    "email_to": "where that email goes",
    "runbooks": "base of the runbook links",
    "dashboards": "base of the dashboard links; empty leaves them out",
}
TIMING = re.compile(
    r"^( *(?:- )?(?:scrape_interval|evaluation_interval|interval|for|keep_firing_for"
    r"|group_wait|group_interval|repeat_interval): )(\w+)$",
    re.MULTILINE,
)
HOLD = re.compile(r"(?m)^( *keep_firing_for: )(\w+)$")
DASHBOARD = re.compile(r"(?m)^ *dashboard_url: .*\n")
# The commented line that shows where a token goes: its comment sign, what leads to the path, the path.
TOKEN_FILE = re.compile(r"# ((?:http_config: \{)?authorization: \{credentials_file: )[^ }]*coldchain-receiver\.token")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds(duration: str) -> float:
    """Seconds of a duration as Prometheus spells it (`1h30m`); ValueError for anything else."""
    if not re.fullmatch(r"(\d+(ms|[smhdw]))+", duration):
        raise ValueError(f"{duration!r} is no duration: write it as 15s, 5m or 1h30m")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw])", duration))


def divided(duration: str, divide: float) -> str:
    """The duration divided by `divide`, no shorter than a second unless it is 0."""
    if divide == 1 or not seconds(duration):
        return duration
    milliseconds = max(1000, round(1000 * seconds(duration) / divide))
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def quicken(
    out: Path,
    *,
    divide: float = 1,
    scrape_interval: str | None = None,
    hold: str | None = None,
    receiver_token_file: Path | None = None,
    **instead: str | None,
) -> None:
    """Write the copy into `out`.

    `scrape_interval` is the evaluation interval too, and is not divided. No alert is held longer than `hold` by its
    `keep_firing_for`. `receiver_token_file` holds the bearer token that the receiver asks for. `instead` takes the
    place of what is SHIPPED, by its names: `receiver="127.0.0.1:4711"`.
    """
    if divide <= 0:
        raise ValueError(f"divide by {divide}: give a number above 0")
    if scrape_interval:
        seconds(scrape_interval)
    if hold:
        seconds(hold)
    swaps = {SHIPPED[name]: value.rstrip("/") for name, value in instead.items() if value is not None}
    shipped = re.compile("|".join(re.escape(text) for text in sorted(swaps, key=len, reverse=True)) or "(?!)")

    def copy(source: Path, target: Path) -> None:
        text = TIMING.sub(lambda found: found[1] + divided(found[2], divide), source.read_text("utf-8"))
        if scrape_interval:
            text = re.sub(r"(?m)^(  (?:scrape|evaluation)_interval: )\w+$", rf"\g<1>{scrape_interval}", text)
        if hold:
            text = HOLD.sub(lambda found: found[1] + min(found[2], hold, key=seconds), text)
        if instead.get("dashboards") == "":
            text = DASHBOARD.sub("", text)
        if receiver_token_file:
            text = TOKEN_FILE.sub(lambda found: found[1] + str(receiver_token_file.resolve()), text)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(shipped.sub(lambda found: swaps[found[0]], text), "utf-8")

    copy(PROMETHEUS / "prometheus.yml", out / "prometheus.yml")
    copy(ALERTMANAGER / "alertmanager.yml", out / "alertmanager.yml")
    for rules in sorted((PROMETHEUS / "rules").rglob("*.yml")):
        copy(rules, out / rules.relative_to(PROMETHEUS))


def main(arguments: list[str] | None = None) -> int:
    """Write the copy that the command line asks for."""
    parser = argparse.ArgumentParser(prog="quicken", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--divide", type=float, default=1, help="divide every timing by this (default: 1)")
    parser.add_argument("--scrape-interval", help="scrape and evaluate this often, undivided (such as 2s)")
    parser.add_argument("--hold", help="hold no alert longer than this by its keep_firing_for (such as 30s)")
    parser.add_argument(
        "--receiver-token-file", type=Path, help="file with the bearer token that the receiver asks for"
    )
    for name, shipped in SHIPPED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{MEANING[name]} (default: {shipped})")
    options = vars(parser.parse_args(arguments))
    try:
        quicken(**options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
