"""The peers that the exporter is measured against, each asked for the same facts of the same database."""

from __future__ import annotations

import contextlib
import subprocess
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from sqlalchemy.engine import make_url

from tests.benchmarks import product
from tests.benchmarks.measure import Target
from tests.databases import free_port
from tests.programs import program

ROOT = Path(__file__).parent.parent.parent
INTERVAL_SECONDS = 15

# One query a series family, as their users write them: these exporters run what they are given.
QUERIES = {
    "bench_orders": (
        ("window", "status"),
        """
        SELECT w.name AS window, CAST(o.status AS text) AS status, CAST(count(*) AS float) AS value
        FROM orders o JOIN (VALUES ('1h', interval '1 hour'), ('24h', '24 hours'), ('168h', '168 hours'))
             AS w (name, length) ON o.created_at >= now() - w.length
        GROUP BY 1, 2
        """,
    ),
    "bench_orders_waiting": (
        (),
        """
        SELECT CAST(count(*) AS float) AS value FROM orders
        WHERE status = 'PENDING' AND created_at < now() - interval '2 h'
        """,
    ),
    "bench_dispatches": (
        ("window", "status"),
        """
        SELECT w.name AS window, CAST(d.status AS text) AS status, CAST(count(*) AS float) AS value
        FROM dispatches d JOIN (VALUES ('1h', interval '1 hour'), ('24h', '24 hours'), ('168h', '168 hours'))
             AS w (name, length) ON d.created_at >= now() - w.length
        GROUP BY 1, 2
        """,
    ),
    "bench_vehicles": (
        ("status",),
        "SELECT CAST(status AS text) AS status, CAST(count(*) AS float) AS value FROM vehicles GROUP BY 1",
    ),
    # so that the page is as long as ours, whatever the host
    "bench_filler": (
        ("n",),
        "SELECT CAST(n AS text) AS n, CAST(n AS float) AS value FROM generate_series(1, {filler}) AS n",
    ),
}


@contextlib.contextmanager
def started(
    name: str, command: list[str], port: int, path: str, folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """A program of its own, ended at the end; what it says goes to a file. `settings` are environment variables."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=product.environment(settings))
        try:
            yield Target(name, port, path, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def node_exporter(folder: Path) -> contextlib.AbstractContextManager[Target]:
    """Debian's, with its default collectors."""
    port = free_port()
    command = [program("prometheus-node-exporter", "node_exporter"), f"--web.listen-address=127.0.0.1:{port}"]
    return started("node_exporter", command, port, "/metrics", folder)


def sql_exporter(folder: Path, database_url: str, filler: int) -> contextlib.AbstractContextManager[Target]:
    """Debian's sql_exporter (Go), its values refreshed in the background and cached as ours are."""
    port = free_port()
    url = make_url(database_url).set(drivername="postgres", query={"sslmode": "disable"})
    config = {
        "jobs": [
            {
                "name": "bench",
                "interval": f"{INTERVAL_SECONDS}s",
                "connections": [url.render_as_string(hide_password=False)],
                "queries": [
                    {
                        "name": name,
                        "help": name,
                        "labels": list(labels),
                        "values": ["value"],
                        "query": query.format(filler=filler),
                    }
                    for name, (labels, query) in QUERIES.items()
                ],
            }
        ]
    }
    (folder / "sql_exporter.yml").write_text(yaml.safe_dump(config))
    command = [
        *(program("prometheus-sql-exporter", "sql_exporter"), "-config.file", str(folder / "sql_exporter.yml")),
        *("-web.listen-address", f"127.0.0.1:{port}"),
    ]
    return started("sql_exporter", command, port, "/metrics", folder)


def query_exporter_program(folder: Path) -> str:
    """Installs query-exporter from PyPI into an environment of its own, for it has dependencies of its own."""
    home = folder / "query-exporter"
    if not (home / "bin" / "query-exporter").exists():
        venv.create(home, with_pip=True)
        subprocess.run(
            [
                home / "bin" / "pip",
                "install",
                "-qq",
                "--disable-pip-version-check",
                "query-exporter",
                "psycopg[binary]",
            ],
            check=True,
        )
    return str(home / "bin" / "query-exporter")


def query_exporter(folder: Path, database_url: str, filler: int) -> contextlib.AbstractContextManager[Target]:
    """query-exporter (Python), its values refreshed in the background."""
    port = free_port()
    url = make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    config = {
        "databases": {"bench": {"dsn": url}},
        "metrics": {
            name: {"type": "gauge", "description": name} | ({"labels": list(labels)} if labels else {})
            for name, (labels, _) in QUERIES.items()
        },
        "queries": {
            f"query_{name}": {
                "databases": ["bench"],
                "metrics": [name],
                "interval": INTERVAL_SECONDS,
                "sql": query.format(filler=filler).replace("AS value", f"AS {name}"),
            }
            for name, (_, query) in QUERIES.items()
        },
    }
    (folder / "query_exporter.yaml").write_text(yaml.safe_dump(config))
    command = [
        *(query_exporter_program(folder.parent), "--config", str(folder / "query_exporter.yaml")),
        *("--host", "127.0.0.1", "--port", str(port), "--process-stats"),
    ]
    return started("query_exporter", command, port, "/metrics", folder)


_CLIENT_APP = """
import sys, uvicorn
from prometheus_client import CollectorRegistry, Gauge, make_asgi_app
registry = CollectorRegistry()
gauge = Gauge("bench_filler", "As many samples as ours.", ["n"], registry=registry)
for n in range(int(sys.argv[2])):
    gauge.labels(str(n)).set(n * 1.5)
uvicorn.run(make_asgi_app(registry), port=int(sys.argv[1]), log_level="warning", http="httptools", lifespan="off")
"""


def client_app(folder: Path, our_program: str, samples: int) -> contextlib.AbstractContextManager[Target]:
    """prometheus_client's own ASGI app with as many samples, on the same server and in the same environment as ours."""
    port = free_port()
    command = [str(Path(our_program).with_name("python")), "-c", _CLIENT_APP, str(port), str(samples)]
    return started("prometheus_client", command, port, "/", folder)
