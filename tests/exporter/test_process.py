"""The exporter as it is run: its command line, its answers, its reload and its end."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.databases import QUOTED_PASSWORD, PostgreSQL, SQLite, free_port
from tests.exporter.running import QUICK, ends_with, running
from tests.waiting import until

ALL = {"database", "orders", "dispatches", "vehicles"}


def test_host_alone_is_served_without_a_database_and_that_is_said(tmp_path: Path) -> None:
    with running(tmp_path, "") as exporter:
        until(lambda: exporter.get("/-/ready").status_code == 200, "it is ready")
        series = exporter.series()
        assert exporter.up() == {"host": 1}
        assert "coldchain_database_up" not in series
        assert (series["coldchain_host_memory_usage_ratio"] or 0) > 0
        assert (series["process_resident_memory_bytes"] or 0) > 0
        assert series['coldchain_alert_threshold{alert="ColdChainOrdersWaiting",severity="warning"}'] == 10
        assert len([line for line in exporter.log() if "DATABASE_URL is not set" in line]) == 1
        assert "DATABASE_URL이 없어" in exporter.get("/").text
        assert exporter.end() == 0


def test_first_scrape_has_the_business_series(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, QUICK, database_url=sqlite.url) as exporter:
        assert exporter.get("/-/ready").text == "Ready\n"
        series = exporter.series()
        assert series["coldchain_database_up"] == 1
        assert series['coldchain_orders{status="pending",window="24h"}'] == 0


def test_metrics_are_answered_compressed_and_to_head_alike(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, QUICK, database_url=sqlite.url) as exporter:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        with httpx.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            assert b"coldchain_database_up 1.0" in gzip.decompress(b"".join(answer.iter_raw()))
        plain = httpx.get(url, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == "accept, accept-encoding"
        head = httpx.head(url, headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content, "content-length" in head.headers) == (200, b"", True)
        assert httpx.post(url).status_code == 405


def test_the_page_for_people_names_the_sources_and_no_secret(tmp_path: Path, postgresql: PostgreSQL) -> None:
    wrong = postgresql.url.replace(QUOTED_PASSWORD, "not-the-password")
    with running(tmp_path, QUICK, database_url=wrong) as exporter:
        until(lambda: "실패" in exporter.get("/").text, "the failure is shown")
        page = exporter.get("/").text
        assert set(re.findall(r"<td>(\w+)</td>", page)) == ALL
        assert "password authentication failed" in page
        assert "check user and password" in page
        answer = exporter.get("/")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert exporter.get("/static/exporter.css").headers["content-type"].startswith("text/css")
        for text in (page, exporter.get("/metrics").text, "\n".join(exporter.log())):
            assert "not-the-password" not in text
        assert exporter.value("coldchain_database_up") == 0


@pytest.mark.parametrize(
    ("broken", "mended", "error"),
    [
        ("ALTER TABLE orders RENAME TO away", "ALTER TABLE away RENAME TO orders", 'relation "orders" does not exist'),
        (
            "ALTER TABLE orders RENAME updated_at TO away",
            "ALTER TABLE orders RENAME away TO updated_at",
            'column "updated_at" does not exist',
        ),
        (
            "REVOKE SELECT (status) ON orders FROM coldchain_exporter",
            "GRANT SELECT (status) ON orders TO coldchain_exporter",
            "permission denied for table orders",
        ),
    ],
)
def test_what_is_missing_is_told_once_and_found_again_without_a_restart(
    tmp_path: Path, postgresql: PostgreSQL, broken: str, mended: str, error: str
) -> None:
    postgresql.execute(broken)
    try:
        with running(tmp_path, QUICK, database_url=postgresql.url) as exporter:
            until(lambda: exporter.up() == dict.fromkeys(ALL, 1) | {"orders": 0}, "orders alone fail")
            success = 'coldchain_source_last_success_timestamp_seconds{source="vehicles"}'
            before = exporter.value(success) or 0
            until(lambda: (exporter.value(success) or 0) > before + 2, "it has failed some times more")
            (line,) = exporter.warnings()
            assert "source=orders" in line
            assert error in line.replace('\\"', '"')
            postgresql.execute(mended)
            until(lambda: exporter.up() == dict.fromkeys(ALL, 1), "orders are back")
            assert exporter.warnings() == [line]
            assert exporter.log()[-1].endswith('msg="source recovered" source=orders')
    finally:
        with contextlib.suppress(psycopg.Error):  # it is mended, but where the test failed
            postgresql.execute(mended)


def test_reload_takes_new_settings_and_leaves_what_did_not_change(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, QUICK, database_url=sqlite.url) as exporter:
        threshold = 'coldchain_alert_threshold{alert="ColdChainOrdersWaiting",severity="warning"}'
        assert exporter.value(threshold) == 10
        exporter.settings.write_text(
            "default_interval: 500ms\ndefault_timeout: 1s\nmax_age: 3\nwindows: [2h]\n"
            "sources: {host: {enabled: false}, vehicles: {enabled: false}}\n"
            "thresholds: {ColdChainOrdersWaiting: {warning: 20}}\n"
        )
        assert exporter.post("/-/reload").status_code == 200
        assert exporter.value(threshold) == 20
        until(lambda: exporter.value('coldchain_orders{status="pending",window="2h"}') == 0, "the new window is shown")
        series = exporter.series()
        assert 'coldchain_orders{status="pending",window="24h"}' not in series
        assert not any(name.startswith("coldchain_vehicles") for name in series)
        assert set(exporter.up()) == ALL - {"vehicles"}
        assert series["coldchain_config_last_reload_successful"] == 1


def test_a_refused_reload_leaves_the_old_settings_in_force(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, QUICK, database_url=sqlite.url) as exporter:
        exporter.settings.write_text(QUICK + "windows: [90s]\n")
        answer = exporter.post("/-/reload")
        assert answer.status_code == 400
        assert answer.json()["detail"] == [f"{exporter.settings}:5: windows: windows are whole minutes or hours"]
        assert exporter.value("coldchain_config_last_reload_successful") == 0
        assert exporter.value('coldchain_orders{status="pending",window="24h"}') == 0
        assert "새 설정을 거부했습니다" in exporter.get("/").text
        exporter.settings.write_text(QUICK)
        exporter.popen.send_signal(signal.SIGHUP)
        until(lambda: exporter.value("coldchain_config_last_reload_successful") == 1, "the good one is taken")


def test_a_database_may_be_given_and_taken_by_a_reload(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, QUICK) as exporter:
        assert exporter.up() == {}
        exporter.settings.write_text(QUICK + f"database_url: {sqlite.url}\n")
        exporter.post("/-/reload")
        until(lambda: exporter.up() == dict.fromkeys(ALL, 1), "all are up")
        exporter.settings.write_text(QUICK)
        exporter.post("/-/reload")
        assert exporter.up() == {}
        assert exporter.business() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(tmp_path: Path, sqlite: SQLite, number: signal.Signals) -> None:
    with running(tmp_path, QUICK, database_url=sqlite.url) as exporter:
        assert exporter.end(number, seconds=10) == 0
        assert exporter.warnings() == []


def test_paths_of_a_container_are_flags(tmp_path: Path) -> None:
    procfs = Path(__file__).parent / "procfs"
    with running(tmp_path, "", f"--path.procfs={procfs}", f"--path.rootfs={tmp_path}") as exporter:
        until(lambda: exporter.up() == {"host": 1}, "the host is looked at")
        assert exporter.value("coldchain_host_memory_total_bytes") == 8_000_000 * 1024
        assert exporter.value('coldchain_host_filesystem_size_bytes{mountpoint="/"}') is not None


def test_check_config_says_that_all_is_well(tmp_path: Path) -> None:
    assert ends_with(tmp_path, "check-config", DATABASE_URL="sqlite:////nowhere.db") == (
        0, "The settings are fine. Sources: host, database, orders, dispatches, vehicles.\n", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [["--config.file=exporter.yaml", "check-config"], ["check-config", "--config.file=exporter.yaml"]],
    ids=["flag first", "flag behind"],
)
def test_check_config_names_file_and_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "exporter.yaml").write_text("windows: [1h]\ndefault_interval: never\n")
    code, out, errors = ends_with(tmp_path, *arguments)
    assert (code, out) == (1, "")
    assert errors == "error: exporter.yaml:2: default_interval: write a duration such as 15s, 5m, 2h or 1d\n"


def test_check_config_has_the_database_explain_every_query(tmp_path: Path, postgresql: PostgreSQL) -> None:
    assert ends_with(tmp_path, "check-config", "--database", DATABASE_URL=postgresql.url)[0] == 0
    elsewhere = postgresql.url.replace("/dispatch", "/postgres")
    code, out, errors = ends_with(tmp_path, "check-config", "--database", DATABASE_URL=elsewhere)
    assert (code, out) == (1, "")
    hint = "is this the dispatch database, and its schema in the role's search_path?"
    assert errors.splitlines() == [
        f'error: {name}: relation "{name}" does not exist ({hint})' for name in ("orders", "dispatches", "vehicles")
    ]


def test_check_config_never_makes_the_file(tmp_path: Path) -> None:
    code, _, errors = ends_with(tmp_path, "check-config", "--database", DATABASE_URL=f"sqlite:///{tmp_path}/none.db")
    assert code == 1
    assert errors.startswith("error: database: unable to open database file (does the file exist")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_database_url_ends_the_start_without_a_traceback(tmp_path: Path) -> None:
    code, out, errors = ends_with(tmp_path, DATABASE_URL="oracle://user:secret@host/name")
    assert (code, out) == (1, "")
    assert errors.startswith("error: DATABASE_URL: database_url: not a database URL; write postgresql://")
    assert "secret" not in errors


def test_an_unreachable_database_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/dispatch"
    with running(tmp_path, QUICK, database_url=url) as exporter:
        until(lambda: exporter.value("coldchain_database_up") == 0, "the database is down")
        assert exporter.up() == dict.fromkeys(ALL, 0)
        (line,) = exporter.warnings()  # one for all four sources
        assert "Connection refused" in line


def test_the_start_loads_nothing_that_only_a_sub_command_or_a_person_needs() -> None:
    program = (
        "import sys; import exporter.__main__; "
        "print(*sorted(sys.modules.keys() & {'exporter.check', 'exporter.doctor', 'exporter.page', 'jinja2', "
        "'psycopg', 'pymysql', 'alembic', 'requests', 'httpx'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
