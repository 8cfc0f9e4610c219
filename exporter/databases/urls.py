"""DATABASE_URL in the forms that are in use, and the kind of database that each names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import sqlalchemy
import sqlalchemy.exc

from exporter.databases.base import Dialect, Reader, one_line
from exporter.databases.mysql import MySQL
from exporter.databases.postgresql import PostgreSQL
from exporter.databases.sqlite import SQLite

__all__ = ["dialect_for", "open_reader", "parse_url"]

# what the scheme says: SQLAlchemy's driver, the module it needs, the extra that brings it, and its option for TLS
_KINDS = {
    "postgresql": ("postgresql+psycopg", "psycopg", "postgresql", "sslmode=require"),
    "postgres": ("postgresql+psycopg", "psycopg", "postgresql", "sslmode=require"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql", "ssl_ca=FILE"),
    "mariadb": ("mysql+pymysql", "pymysql", "mysql", "ssl_ca=FILE"),
    "sqlite": ("sqlite", "sqlite3", "", ""),
}


def parse_url(text: str) -> sqlalchemy.URL:
    """The URL with our driver in it, whatever driver the system itself uses; raises ValueError, without the URL."""
    scheme = text.split("://", 1)[0].split("+", 1)[0]
    if "://" not in text or scheme not in _KINDS:
        raise ValueError(
            "not a database URL; write postgresql://USER:PASSWORD@HOST/NAME, mysql://USER:PASSWORD@HOST/NAME "
            "or sqlite:////PATH"
        )
    driver, module, extra, tls = _KINDS[scheme]
    try:
        url = sqlalchemy.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # their words would repeat a part of the URL, perhaps of the password
        raise ValueError(
            "not a database URL: is the port a number, and is each of @ : / ? # % in the password percent-encoded?"
        ) from None
    if find_spec(module) is None:
        raise ValueError(f"the driver for {scheme} is not installed: pip install 'coldchain-monitor[{extra}]'")
    if not url.database:
        raise ValueError("the URL names no database" if scheme != "sqlite" else "give the file's path: sqlite:////PATH")
    if scheme == "sqlite" and (url.database == ":memory:" or url.database.startswith("file:")):
        raise ValueError("give the SQLite file's plain path: sqlite:////PATH")
    url = url.set(drivername=driver)
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("the URL's port is none: a number from 1 to 65535")
    try:
        options = dialect_for(url.get_backend_name()).options()
    except ImportError as error:  # psycopg without the C library that it wraps
        raise ValueError(
            f"the driver for {scheme} cannot be loaded ({one_line(error)}): pip install 'coldchain-monitor[{extra}]'"
        ) from None
    if options is not None and (unknown := sorted(url.query.keys() - options)):
        raise ValueError(
            f"the URL's option {unknown[0]} is another driver's than {module}'s: take it out"
            + (f" (for TLS write {tls})" if "ssl" in unknown[0] else "")
        )
    if scheme != "sqlite":
        _check_values(url)
    return url


def _check_values(url: sqlalchemy.URL) -> None:
    """Raises ValueError where an option's value is none; a few hosts, one behind the other, are PostgreSQL's alone."""
    twice = [name for name, value in url.query.items() if not isinstance(value, str)]
    if twice and url.get_backend_name() != "postgresql":
        raise ValueError(f"the URL's option {twice[0]} is given twice")
    try:
        url.get_dialect()().create_connect_args(url)
    except (ValueError, TypeError, sqlalchemy.exc.ArgumentError):
        raise ValueError(
            "an option behind the URL's ? has a value that it cannot have: is each number one, and each choice true or "
            "false?"
        ) from None


def dialect_for(name: str) -> Dialect:
    """The dialect by SQLAlchemy's name for it (`connection.dialect.name`)."""
    kinds: dict[str, Callable[[], Dialect]] = {
        "postgresql": PostgreSQL,
        "mysql": MySQL,
        "mariadb": MySQL,
        "sqlite": SQLite,
    }
    return kinds[name]()


def open_reader(url: sqlalchemy.URL, timeout: float) -> Reader:
    """A reader that has not connected yet; `timeout` in seconds is for connecting."""
    return Reader(dialect_for(url.get_backend_name()), url, timeout)
