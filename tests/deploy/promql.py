"""Which series and labels a PromQL expression uses, and which of them nothing serves: for rules and dashboards."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

AGGREGATIONS = {"sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile"}
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "atan2"}
TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<range>\[[^\]]*\])
      | (?P<number>\d[\w.]*)
      | (?P<name>[A-Za-z_:][\w:]*)
      | (?P<variable>\$\{?\w+\}?)
      | (?P<sign>=~|!~|!=|==|>=|<=|[^\s\w])
    """,
    re.VERBOSE,
)
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"')
# Labels by metric, and for each label the values it is known to take; no values means that any will do.
Series = Mapping[str, Mapping[str, frozenset[str]]]
TARGET: Mapping[str, frozenset[str]] = {"job": frozenset(), "instance": frozenset()}


@dataclass(frozen=True)
class Selector:
    """One metric as an expression selects it: (label, operator, value) for each matcher."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


@dataclass
class Use:
    """What an expression uses: its selectors, the labels it groups or matches by, what is inside its aggregations."""

    selectors: list[Selector] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)
    aggregations: list[tuple[str, frozenset[str], list[Selector]]] = field(default_factory=list)


def parse(expression: str) -> Use:
    """What the expression uses. Grafana's variables may stand in strings, ranges and for numbers."""
    tokens = [(str(found.lastgroup), found[0]) for found in TOKEN.finditer(re.sub(r"(?m)#.*$", "", expression))]
    return _read(tokens)


def _read(tokens: list[tuple[str, str]]) -> Use:
    use = Use()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        if kind != "name" or text.lower() in OPERATORS:
            continue
        if text in GROUPINGS:
            inside, at = _enclosed(tokens, at)
            use.grouped_by |= {name for kind, name in inside if kind == "name"}
        elif text in AGGREGATIONS:
            at = _aggregation(tokens, at, use)
        elif at < len(tokens) and tokens[at][1] == "(":
            continue  # a function: its arguments are read as they come
        else:
            inside, at = _enclosed(tokens, at, "{}")
            matchers = MATCHER.findall("".join(word for _, word in inside))
            use.selectors.append(Selector(text, tuple(matchers)))
    return use


def _aggregation(tokens: list[tuple[str, str]], at: int, use: Use) -> int:
    mode, labels = "by", frozenset[str]()
    inside: list[tuple[str, str]] = []
    for _ in range(2):  # `sum by (a) (x)` and `sum (x) by (a)`
        if at < len(tokens) and tokens[at][1] in {"by", "without"}:
            mode = tokens[at][1]
            grouping, at = _enclosed(tokens, at + 1)
            labels = frozenset(name for kind, name in grouping if kind == "name")
        elif at < len(tokens) and tokens[at][1] == "(":
            inside, at = _enclosed(tokens, at)
    inner = _read(inside)
    use.selectors += inner.selectors
    use.grouped_by |= inner.grouped_by | labels
    use.aggregations += [*inner.aggregations, (mode, labels, inner.selectors)]
    return at


def _enclosed(tokens: list[tuple[str, str]], at: int, pair: str = "()") -> tuple[list[tuple[str, str]], int]:
    """The tokens between the brackets that open at `at`, and where they end; nothing where none opens there."""
    if at >= len(tokens) or tokens[at][1] != pair[0]:
        return [], at
    depth, start = 0, at + 1
    for end in range(at, len(tokens)):
        depth += (tokens[end][1] == pair[0]) - (tokens[end][1] == pair[1])
        if depth == 0:
            return tokens[start:end], end + 1
    raise ValueError(f"{pair[0]} without {pair[1]}: {' '.join(text for _, text in tokens)}")


def scraped(*texts: str) -> dict[str, dict[str, frozenset[str]]]:
    """The series of scrapes in the text format, for `problems`: each label with the values that were there."""
    found: dict[str, dict[str, set[str]]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
    return {metric: {name: frozenset(values) for name, values in labels.items()} for metric, labels in found.items()}


def problems(expressions: Iterable[str], series: Series) -> list[str]:
    """What the expressions use and the series lack, misspelt metrics, labels and values alike; and sums over `window`.

    `series` comes from `scraped`, with what is recorded and `up` added by the caller.
    """
    return [problem for expression in expressions for problem in _problems(expression, series)]


def _problems(expression: str, series: Series) -> Iterator[str]:
    use = parse(expression)
    for selector in use.selectors:
        labels = {**TARGET, **series.get(selector.metric, {})}
        if selector.metric not in series:
            yield f"nothing serves {selector.metric}: {expression}"
            continue
        for label, operator, value in selector.matchers:
            known = labels.get(label)
            if known is None:
                yield f"{selector.metric} has no label {label}: {expression}"
            elif known and "$" not in value and not _possible(operator, value, known):
                yield f"{selector.metric} has no {label}{operator}{value!r}: {expression}"
    present = {label for selector in use.selectors for label in series.get(selector.metric, {})} | set(TARGET)
    made = set(re.findall(r'(?:label_(?:replace|join)\([^"]*|count_values\()"(\w+)"', expression))
    for label in sorted(use.grouped_by - present - made):
        yield f"nothing that it selects has the label {label}: {expression}"
    for mode, labels_kept, inside in use.aggregations:
        for selector in inside:
            pinned = any(label == "window" and operator == "=" for label, operator, _ in selector.matchers)
            kept = ("window" in labels_kept) == (mode == "by")
            if "window" in series.get(selector.metric, {}) and not pinned and not kept:
                yield f"aggregates {selector.metric} over window, whose values overlap: {expression}"


def _possible(operator: str, value: str, known: frozenset[str]) -> bool:
    if operator == "=":
        return value in known
    if operator == "=~":
        return all(any(re.fullmatch(part, word) for word in known) for part in value.split("|"))
    return True
