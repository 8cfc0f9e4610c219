"""Writes the dashboards' JSON: `python -m grafana.build`, with other addresses for the links if a site has them."""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from grafana import delivery, dispatch, host, overview
from grafana.board import Site

FOLDER = Path(__file__).resolve().parent / "dashboards"


def documents(site: Site) -> dict[str, str]:
    """The JSON of each dashboard by its file name."""
    boards = (overview.board(), dispatch.board(), host.board(), delivery.board())
    return {f"{board.uid}.json": _text(board.build(site)) for board in boards}


def _text(dashboard: models.Dashboard) -> str:
    document = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    for shown in (*document["links"], *document["annotations"]["list"]):
        del shown["placement"]  # the SDK would have Grafana hide each of them in a menu
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the dashboards that the command line asks for."""
    parser = argparse.ArgumentParser(prog="grafana.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: grafana/dashboards)")
    parser.add_argument("--runbooks", default=Site.runbooks, help="base of the runbook links (default: %(default)s)")
    parser.add_argument("--alertmanager", default=Site.alertmanager, help="Alertmanager (default: %(default)s)")
    options = parser.parse_args(arguments)
    site = Site(runbooks=options.runbooks.rstrip("/"), alertmanager=options.alertmanager.rstrip("/"))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in documents(site).items():
        (options.out / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
