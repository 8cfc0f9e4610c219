"""What a failing database is called, by each of its drivers, and what URLs are understood."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
import sqlalchemy
from sqlalchemy.dialects.mysql import pymysql as mysql_dialect

from exporter.databases import DatabaseError, Failure, Reader, dialect_for, open_reader, parse_url
from exporter.databases.base import hint_for
from tests.databases import PASSWORD, QUOTED_PASSWORD, MariaDB, PostgreSQL, free_port
from tests.exporter.running import QUICK, running
from tests.waiting import until


def failure(url: str, sql: str = "SELECT 1", timeout: float = 4) -> DatabaseError:
    """How a statement fails on a connection of its own."""
    reader = open_reader(parse_url(url), timeout)
    try:
        with pytest.raises(DatabaseError) as caught:
            reader.read(lambda connection: connection.exec_driver_sql(sql).all(), timeout)
    finally:
        reader.close()
    return caught.value


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose server takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def unreachable() -> Iterator[int]:
    """A port that no connection gets through to, as behind a firewall: its queue is full, and nobody takes from it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        callers = []
        for _ in range(4):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
            callers.append(caller)
        yield port
        for caller in callers:
            caller.close()


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("postgresql://u:p@db/dispatch", "postgresql+psycopg://u:p@db/dispatch"),
        ("postgres://u:p@db/dispatch", "postgresql+psycopg://u:p@db/dispatch"),
        ("postgresql+psycopg://u:p@db/dispatch", "postgresql+psycopg://u:p@db/dispatch"),
        ("postgresql+asyncpg://u:p@db:6432/dispatch", "postgresql+psycopg://u:p@db:6432/dispatch"),
        ("mysql://u:p@db/dispatch", "mysql+pymysql://u:p@db/dispatch"),
        ("mariadb+aiomysql://u:p@db/dispatch", "mysql+pymysql://u:p@db/dispatch"),
        ("sqlite:////srv/dispatch.db", "sqlite:////srv/dispatch.db"),
        ("sqlite+aiosqlite:///dispatch.db", "sqlite:///dispatch.db"),
        ("postgresql://db/d?sslmode=require&host=db2", "postgresql+psycopg://db/d?host=db2&sslmode=require"),
        ("postgresql:///d?host=a:1&host=b:2", "postgresql+psycopg:///d?host=a%3A1&host=b%3A2"),
        ("mysql://db/d?charset=utf8mb4&ssl_ca=a.pem", "mysql+pymysql://db/d?charset=utf8mb4&ssl_ca=a.pem"),
    ],
)
def test_urls_of_the_system_are_taken_with_drivers_of_ours(given: str, understood: str) -> None:
    assert parse_url(given).render_as_string(hide_password=False) == understood


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dispatch.db", "not a database URL; write postgresql://"),
        ("oracle://u:secret@db/dispatch", "not a database URL; write postgresql://"),
        ("postgresql://u:secret@db:port/dispatch", "percent-encoded"),
        ("postgresql://u:secret@db", "the URL names no database"),
        ("sqlite://", "give the file's path"),
        ("sqlite:///:memory:", "plain path"),
        ("postgresql://u:secret@db:99999/d", "a number from 1 to 65535"),
        ("postgresql+asyncpg://u:secret@db/d?ssl=require", r"option ssl is .* take it out \(for TLS write sslmode="),
        ("mysql+aiomysql://u:secret@db/d?ssl=true", r"option ssl is .* take it out \(for TLS write ssl_ca=FILE\)"),
        ("mysql://u:secret@db/d?connect_timeout=sec", "is each number one, and each choice true or false"),
        ("mysql://u:secret@db/d?compress=sec", "is each number one, and each choice true or false"),
        ("mysql://u:secret@db/d?unix_socket=a&unix_socket=b", "the URL's option unix_socket is given twice"),
        ("postgresql://u:secret@db/d?port=sec", "is each number one, and each choice true or false"),
        ("mysql://u:secret@db/d?echo=sec", "option echo is another driver's than pymysql's: take it out$"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_without_repeating_them(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_url(given)
    assert "sec" not in str(caught.value)


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.databases.urls.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'coldchain-monitor\[mysql\]'"):
        parse_url("mysql://u:p@db/dispatch")


def test_a_driver_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(_: object) -> None:
        raise ImportError("no pq wrapper available.\nAttempts made: ...")

    monkeypatch.setattr("exporter.databases.postgresql.PostgreSQL.options", options)
    with pytest.raises(ValueError, match=r"cannot be loaded \(no pq wrapper available\.\): pip install 'coldchain"):
        parse_url("postgresql://u:p@db/dispatch")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_refused_connection_is_told_with_address_and_hint(scheme: str) -> None:
    port = free_port()
    error = failure(f"{scheme}://u:secret@127.0.0.1:{port}/dispatch")
    assert error.failure is Failure.UNREACHABLE
    assert "127.0.0.1" in str(error)
    assert str(port) in str(error)
    assert "refused" in str(error)
    assert error.hint == "is the server running there, and the port right?"


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_host_that_does_not_answer_is_given_up(scheme: str, unreachable: int) -> None:
    error = failure(f"{scheme}://u:secret@127.0.0.1:{unreachable}/dispatch")
    assert error.failure is Failure.UNREACHABLE
    assert error.hint == "is the host right, does a firewall let this machine through, or is the server frozen?"


def test_a_server_that_says_nothing_is_given_up(silent: int) -> None:
    assert failure(f"postgresql://u:secret@127.0.0.1:{silent}/dispatch").failure is Failure.UNREACHABLE


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_host_without_an_address_is_told(scheme: str) -> None:
    error = failure(f"{scheme}://u:secret@nowhere.invalid/dispatch")
    assert error.failure is Failure.UNREACHABLE
    assert error.hint == "check the host's name in DATABASE_URL"


@pytest.mark.parametrize("option", ["charset=nonsense", "ssl_ca=/nowhere.pem"])
def test_an_option_that_the_driver_cannot_use_is_told_without_a_traceback(option: str) -> None:
    error = failure(f"mysql://u:secret@127.0.0.1/dispatch?{option}")
    assert error.failure is Failure.UNREACHABLE
    assert str(error).startswith("an option of DATABASE_URL cannot be used: ")
    assert error.hint == "check what DATABASE_URL says behind its ?"


@pytest.fixture
def without_encoding(postgresql: PostgreSQL) -> Iterator[str]:
    """The owner's URL of a database as a server makes it where the machine has no locale."""
    name = "ascii"
    postgresql.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    yield f"postgresql://owner@/{name}?host={postgresql.folder}&port={postgresql.port}"
    postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_text_is_read_where_the_server_has_no_encoding(without_encoding: str) -> None:
    reader = open_reader(parse_url(without_encoding), 4)
    assert reader.read(lambda connection: connection.exec_driver_sql("SELECT '서울'").scalar_one(), 4) == "서울"
    reader.close()
    error = failure(without_encoding, r"SELECT E'\xb0\xa1'")  # in EUC-KR
    assert error.failure is Failure.REFUSED
    assert "invalid byte sequence" in str(error)


def test_a_value_that_the_driver_cannot_read_says_nothing_of_the_connection(postgresql: PostgreSQL) -> None:
    error = failure(postgresql.url, "SELECT CAST('infinity' AS timestamptz)")
    assert error.failure is Failure.REFUSED
    assert "timestamp too large" in str(error)


def change(url: str, old: str, new: str) -> str:
    assert old in url
    return url.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (QUOTED_PASSWORD, "a-wrong-one", "check user and password"),
        ("coldchain_exporter", "nobody", "check user and password"),
        ("/dispatch", "/elsewhere", "check the database's name in DATABASE_URL"),
    ],
)
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_what_is_wrong_in_the_url_is_told_and_never_the_password(
    request: pytest.FixtureRequest, kind: str, old: str, new: str, hint: str
) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    error = failure(change(server.url, old, new))
    assert error.failure is Failure.UNREACHABLE
    if (kind, new) != ("mariadb", "/elsewhere"):  # MariaDB denies access to what it does not let us know about
        assert error.hint == hint
    for secret in (PASSWORD, QUOTED_PASSWORD, "a-wrong-one"):
        assert secret not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("sql", "failed", "words"),
    [
        ("SELECT id FROM nowhere", Failure.REFUSED, "nowhere"),
        ("SELECT nothing FROM orders", Failure.REFUSED, "nothing"),
        ("SELECT order_number FROM orders", Failure.REFUSED, "denied"),
    ],
)
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_what_the_database_refuses_is_told_in_its_words(
    request: pytest.FixtureRequest, kind: str, sql: str, failed: Failure, words: str
) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    error = failure(server.url, sql)
    assert error.failure is failed
    assert words in str(error)


@pytest.mark.parametrize(
    ("kind", "sql"), [("postgresql", "SELECT pg_sleep(30)"), ("mariadb", "SELECT sleep(30) FROM vehicles")]
)
def test_a_query_that_is_out_of_time_is_ended_by_the_server(
    request: pytest.FixtureRequest, kind: str, sql: str
) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    server.execute(
        "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) "
        "VALUES ('1', '1', 'DUAL', 'IN_USE', true)"
    )
    sql = change(sql, "sleep(30)", "sleep(30) + max(id)") if kind == "mariadb" else sql
    error = failure(server.url, sql, timeout=0.5)
    server.clear()
    assert (error.failure, str(error)) == (Failure.SLOW, "the query ran into its time-out")


def test_a_host_that_is_unroutable_is_told_once_and_holds_nothing_up(tmp_path: Path, unreachable: int) -> None:
    url = f"postgresql://u:p@127.0.0.1:{unreachable}/dispatch"
    settings = QUICK.replace("default_timeout: 1s", "default_timeout: 5s")  # libpq waits for two seconds at least
    with running(tmp_path, settings, database_url=url) as exporter:
        until(lambda: exporter.value("coldchain_database_up") == 0, "the database is down")
        assert exporter.up() == dict.fromkeys(("database", "orders", "dispatches", "vehicles"), 0)
        until(exporter.warnings, "it is told")
        cpu = exporter.value("process_cpu_seconds_total")
        until(lambda: exporter.value("process_cpu_seconds_total") != cpu, "some seconds have passed")
        (line,) = exporter.warnings()
        assert 'msg="database unreachable"' in line
        assert "is the host right, does a firewall let this machine through, or is the server frozen?" in line
        assert exporter.end(signal.SIGTERM, seconds=10) == 0


def test_a_wrong_password_is_told_once_and_a_right_one_needs_no_restart(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.execute("ALTER ROLE coldchain_exporter PASSWORD 'another'")
    try:
        with running(tmp_path, QUICK, database_url=postgresql.url) as exporter:
            until(lambda: exporter.value("coldchain_database_up") == 0, "the database is down")
            until(lambda: set(exporter.up().values()) == {0.0}, "nothing is up")
            cpu = exporter.value("process_cpu_seconds_total")
            until(lambda: exporter.value("process_cpu_seconds_total") != cpu, "some seconds have passed")
            (line,) = exporter.warnings()
            assert "password authentication failed" in line
            assert 'hint="check user and password"' in line
            postgresql.execute(f"ALTER ROLE coldchain_exporter PASSWORD '{PASSWORD}'")
            until(lambda: set(exporter.up().values()) == {1.0}, "all are up")
            assert exporter.warnings() == [line]
            assert PASSWORD not in "".join(exporter.log())
    finally:
        postgresql.execute(f"ALTER ROLE coldchain_exporter PASSWORD '{PASSWORD}'")


def test_nothing_can_be_written(postgresql: PostgreSQL) -> None:
    owner = f"postgresql://owner@/dispatch?host={postgresql.folder}&port={postgresql.port}"
    assert "read-only transaction" in str(failure(owner, "DELETE FROM orders"))


def pid(connection: sqlalchemy.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def test_a_connection_that_was_lost_at_rest_is_replaced_at_once(postgresql: PostgreSQL) -> None:
    reader = open_reader(parse_url(postgresql.url), 4)
    first = reader.read(pid, 4)
    assert reader.read(pid, 4) == first  # kept
    with postgresql.connect() as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
    assert reader.read(pid, 4) != first
    assert reader.connections == 2
    reader.close()


def test_a_query_has_time_left_when_connecting_took_all_of_it(postgresql: PostgreSQL) -> None:
    reader = open_reader(parse_url(postgresql.url), 1)
    postgresql.freeze()
    thaw = threading.Timer(1.2, postgresql.thaw)  # libpq waits for two seconds
    thaw.start()
    try:
        assert reader.read(lambda c: c.exec_driver_sql("SELECT 1 FROM pg_sleep(0.1)").scalar(), 1) == 1
    finally:
        thaw.join()
        postgresql.thaw()
        reader.close()


def test_a_connection_is_not_kept_for_longer_than_a_minute_without_work(postgresql: PostgreSQL) -> None:
    reader = open_reader(parse_url(postgresql.url), 4)
    first = reader.read(pid, 4)
    reader.rest(60)
    assert reader.read(pid, 4) == first
    reader.rest(61)
    assert postgresql.execute(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {first} AND state <> 'idle'") == [
        (0,)
    ]
    assert reader.read(pid, 4) != first
    reader.close()


def test_a_password_that_a_server_repeats_is_hidden(postgresql: PostgreSQL) -> None:
    reader: Reader = open_reader(parse_url(postgresql.url), 4)
    with pytest.raises(DatabaseError) as caught:
        reader.read(lambda connection: connection.exec_driver_sql(f'SELECT "{PASSWORD}"').all(), 4)
    reader.close()
    assert PASSWORD not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("FATAL:  the database system is starting up", "it may be restarting"),
        (
            "FATAL:  sorry, too many clients already",
            "the server has no connection left; this one asks for five at most",
        ),
        ('FATAL:  role "coldchain_exporter" is not permitted to log in', "check user and password"),
        ("치명적오류:  사용자의 인증을 실패했습니다", "see the database's own log"),
    ],
)
def test_hints_follow_the_words_where_there_is_no_code(message: str, hint: str) -> None:
    assert hint_for(message) == hint


class Recorded:
    """A connection to MySQL 8 that only notes what it is told: Debian has no such server to try."""

    def __init__(self) -> None:
        self.dialect = mysql_dialect.dialect()
        self.statements: list[str] = []

    def exec_driver_sql(self, statement: str) -> None:
        self.statements.append(statement)


def test_mysql_is_told_its_time_out_in_milliseconds_and_in_its_own_word() -> None:
    connection = Recorded()
    assert not connection.dialect.is_mariadb
    dialect_for("mysql").begin(connection, 4.5)  # type: ignore[arg-type] # it stands for one
    assert connection.statements == [
        "SET SESSION max_execution_time = 4500, lock_wait_timeout = 3, time_zone = '+00:00'",
        "START TRANSACTION READ ONLY",
    ]


@pytest.mark.parametrize(
    ("code", "failed"),
    [  # MySQL 8.0 Error Reference
        (3024, Failure.SLOW),  # Query execution was interrupted, maximum statement execution time exceeded
        (1317, Failure.SLOW),  # Query execution was interrupted
        (1205, Failure.BUSY),  # Lock wait timeout exceeded
        (2013, Failure.UNREACHABLE),  # Lost connection to MySQL server during query
        (1045, Failure.UNREACHABLE),  # Access denied for user
        (1142, Failure.REFUSED),  # command denied to user
    ],
)
def test_mysqls_numbers_are_understood(code: int, failed: Failure) -> None:
    error = sqlalchemy.exc.DBAPIError("SELECT", {}, pymysql.err.OperationalError(code, "in its words"))
    assert dialect_for("mysql").explain(error).failure is failed


@pytest.fixture
def caching_sha2() -> Iterator[int]:
    """A port on which something greets as MySQL 8 does, and asks for its default way of logging in."""
    greeting = (
        b"\x0a8.0.36\0" + bytes(4) + b"12345678\0" + (0x8209).to_bytes(2, "little") + b"\x2d\x02\0"
        + (0x0008).to_bytes(2, "little") + b"\x15" + bytes(10) + b"123456789012\0caching_sha2_password\0"
    )  # fmt: skip

    def packet(number: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "little") + bytes([number]) + payload

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = server.accept()
                with caller:
                    # the password is not in its cache: it wants all of it, and gives a key to hide it by
                    for answer in (packet(0, greeting), packet(2, b"\x01\x04"), packet(4, b"\x01a key")):
                        caller.sendall(answer)
                        caller.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]


def test_a_way_of_logging_in_that_needs_a_package_is_told_with_what_to_do(
    caching_sha2: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    error = failure(f"mysql://u:p@127.0.0.1:{caching_sha2}/dispatch")
    assert error.failure is Failure.UNREACHABLE
    assert str(error).startswith("'cryptography' package is required for sha256_password or caching_sha2_password")
    assert error.hint == (
        "pip install cryptography, use TLS (?ssl_ca=FILE), or have the user log in by mysql_native_password"
    )
