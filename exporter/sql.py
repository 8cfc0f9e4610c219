"""A site's own SQL: one statement that reads, in which `:now` and `:since` are the exporter's."""

from __future__ import annotations

import re

__all__ = ["MOMENTS", "moments", "problem", "text"]

MOMENTS = frozenset({"now", "since"})

# what is no code: strings, quoted names, PostgreSQL's $$ strings, comments
_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      | (?P<comment>--[^\n]* | /\*.*?\*/)
      | (?<![:\w\\]):(?P<moment>\w+)
      | (?P<end>;)
      | (?P<colon>:)""",
    re.DOTALL | re.VERBOSE,
)


def problem(sql: str) -> str | None:
    """Why this is no query, with a hint; None where it may be one, which the database alone can tell."""
    bare = _TOKEN.sub(lambda found: " " if found["comment"] else found[0], sql).strip().removesuffix(";")
    if not bare.strip():
        return "write a SELECT"
    if any(found["end"] for found in _TOKEN.finditer(bare)):
        return "a query is one statement: split it into several queries, or take out the semicolon"
    if not re.match(r"\(*\s*(SELECT|WITH|VALUES|TABLE)\b", bare, re.IGNORECASE):
        return "a query reads, so it begins with SELECT or WITH"
    return None


def moments(sql: str) -> frozenset[str]:
    """Which of `:now` and `:since` it uses."""
    return MOMENTS & {found["moment"] for found in _TOKEN.finditer(sql) if found["moment"]}


def text(sql: str, rows: int) -> str:
    """The query as sqlalchemy.text() takes it, ended after so many rows; other colons than the moments' are plain text.

    Within parentheses it can be nothing but a query, and the database stops by itself where there are too many rows.
    """

    def escape(found: re.Match[str]) -> str:
        if found["end"]:  # the one that people end a statement with
            return ""
        return found[0] if found["moment"] in MOMENTS else found[0].replace(":", r"\:")

    return f"SELECT * FROM (\n{_TOKEN.sub(escape, sql.strip())}\n) AS found LIMIT {rows}"  # noqa: S608 - the site's own
