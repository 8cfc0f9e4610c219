"""The panels that dashboards are put together from: each with a title, a description, a unit and its size."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    gauge,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

from grafana.queries import SOURCE, Limits
from grafana.words import BLUE, NO_DATA, SEVERITIES, TEXT, Words

COUNT = "locale"  # 1,234: Grafana has no unit for 건 or 대
Query = prometheus.Dataquery
Size = tuple[int, int]
"""Columns of 24, and height in units of 30 pixels."""
P = TypeVar(
    "P", stat.Panel, gauge.Panel, bargauge.Panel, timeseries.Panel, statetimeline.Panel, table.Panel
)  # each panel builder of the SDK stands by itself


def change(what: str, to: object) -> models.DynamicConfigValue:
    """One property of an override."""
    return models.DynamicConfigValue(id_val=what, value=to)


def mapped(words: Words) -> models.ValueMap:
    """A value mapping of words and colours."""
    return models.ValueMap(
        {
            value: models.ValueMappingResult(text=text, color=colour, index=n)
            for n, (value, (text, colour)) in enumerate(words.items())
        }
    )


def link(title: str, url: str) -> dashboard.DashboardLink:
    """A link out of Grafana, in a new tab."""
    return dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).target_blank(True)


def runbook(alert: str, title: str = "런북") -> dashboard.DashboardLink:
    """A link to what to do about an alert."""
    return link(title, f"${{runbooks:raw}}/ko/{alert}.md")


def _dressed(panel: P, title: str, description: str, unit: str, size: Size, links: Sequence[str]) -> P:
    panel = panel.title(title).description(description).unit(unit).datasource(SOURCE).no_value(NO_DATA)
    panel = panel.span(size[0]).height(size[1])
    return panel.links([runbook(alert, f"런북: {alert}") for alert in links]) if links else panel


def _asked(panel: P, queries: Sequence[Query]) -> P:
    for number, query in enumerate(queries):
        built = query.build()
        if built.ref_id == "A":
            query = query.ref_id(chr(ord("A") + number))  # noqa: PLW2901 - the same builder, named
        panel = panel.with_target(query)
    return panel


def _plain(colour: str = TEXT) -> dashboard.ThresholdsConfig:
    return _steps([(None, colour)])


def _steps(steps: Iterable[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _coloured(panel: P, limits: Limits | None, steps: Sequence[tuple[float | None, str]], colour: str) -> P:
    """Colours from limits in force; from constant steps; or one colour."""
    panel = panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    panel = panel.thresholds(_steps(steps) if steps else _plain(colour))
    return panel.with_target(limits.steps()).with_transformation(limits.colouring()) if limits else panel


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def stat_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    size: Size,
    decimals: int | None = None,
    limits: Limits | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
    colour: str = BLUE,
    words: Words | None = None,
    graph: bool = True,
    no_value: str = NO_DATA,
    runbooks: Sequence[str] = (),
) -> stat.Panel:
    """A number, with its course behind it if `graph`; its name beside it only where there are several."""
    panel = _asked(_dressed(stat.Panel(), title, description, unit, size, runbooks), queries)
    panel = _coloured(panel, limits, steps, colour).no_value(no_value).reduce_options(_last())
    panel = panel.text_mode(kinds.BigValueTextMode.AUTO).color_mode(kinds.BigValueColorMode.VALUE)
    panel = panel.graph_mode(kinds.BigValueGraphMode.AREA if graph else kinds.BigValueGraphMode.NONE)
    if words:
        panel = panel.mappings([mapped(words)])
    return _scaled(panel, None, None, decimals)


def health_panel(
    title: str, description: str, query: Query, words: Words, *, size: Size, runbooks: Sequence[str] = ()
) -> stat.Panel:
    """A word on a coloured ground, to be seen from across the room."""
    panel = stat_panel(title, description, query, unit="none", size=size, words=words, graph=False, runbooks=runbooks)
    panel = panel.no_value("확인 불가").color_mode(kinds.BigValueColorMode.BACKGROUND_SOLID)
    return panel.justify_mode(kinds.BigValueJustifyMode.CENTER)


def gauge_panel(
    title: str, description: str, *queries: Query, size: Size, limits: Limits, runbooks: Sequence[str] = ()
) -> gauge.Panel:
    """A share of a whole, its limits marked on the ring."""
    panel = _asked(_dressed(gauge.Panel(), title, description, "percentunit", size, runbooks), queries)
    panel = _scaled(_coloured(panel, limits, (), TEXT), 0, 1, 1).reduce_options(_last())
    return panel.show_threshold_markers(True).show_threshold_labels(False)


def bar_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    size: Size,
    decimals: int | None = None,
    limits: Limits | None = None,
    names: Words | None = None,
    ratio: bool = False,
    runbooks: Sequence[str] = (),
) -> bargauge.Panel:
    """Horizontal bars: of `names` with their colours, or coloured by the limits in force."""
    panel = _asked(_dressed(bargauge.Panel(), title, description, unit, size, runbooks), queries)
    panel = _scaled(_coloured(panel, limits, (), BLUE), 0, 1 if ratio else None, decimals).reduce_options(_last())
    panel = panel.orientation(kinds.VizOrientation.HORIZONTAL).display_mode(kinds.BarGaugeDisplayMode.BASIC)
    panel = panel.value_mode(kinds.BarGaugeValueMode.TEXT)
    return relabel(panel, names) if names else panel


def graph_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    size: Size,
    decimals: int | None = None,
    limits: Limits | None = None,
    constant: tuple[float, str] | None = None,
    names: Words | None = None,
    stacked: bool = False,
    bars: bool = False,
    ratio: bool = False,
    floor: float | None = 0,
    interval: str | None = None,
    runbooks: Sequence[str] = (),
) -> timeseries.Panel:
    """Lines over time with the limits in force, or a `constant` of the shipped rules, as dashed lines.

    `interval` is the shortest time between two points, for counts over `$__interval`.
    """
    panel = _asked(_dressed(timeseries.Panel(), title, description, unit, size, runbooks), queries)
    panel = panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    panel = panel.line_width(1 if stacked else 2).fill_opacity(70 if bars else 40 if stacked else 8)
    panel = panel.show_points(kinds.VisibilityMode.NEVER).span_nulls(False)
    panel = panel.draw_style(kinds.GraphDrawStyle.BARS if bars else kinds.GraphDrawStyle.LINE)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
    )
    panel = panel.thresholds(_steps([(None, "transparent"), constant]) if constant else _plain("transparent"))
    if constant:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if interval:
        panel = panel.interval(interval)
    panel = _scaled(panel, floor, 1 if ratio else None, decimals)
    if names:
        panel = relabel(panel, names)
    return _limited(panel, limits) if limits else panel


def _scaled(panel: P, low: float | None, high: float | None, decimals: int | None) -> P:
    panel = panel if low is None else panel.min(low)
    panel = panel if high is None else panel.max(high)
    return panel if decimals is None else panel.decimals(decimals)


def _limited(panel: timeseries.Panel, limits: Limits) -> timeseries.Panel:
    for query in limits.lines():
        panel = panel.with_target(query)
    for severity in limits.severities:
        panel = panel.override_by_query(severity, _limit_line(SEVERITIES[severity][1]))
    return panel


def _limit_line(colour: str) -> list[models.DynamicConfigValue]:
    return [
        change("color", {"mode": "fixed", "fixedColor": colour}),
        change("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
        change("custom.lineWidth", 1),
        change("custom.fillOpacity", 0),
        change("custom.stacking", {"mode": "none", "group": "limits"}),
    ]


def state_panel(
    title: str,
    description: str,
    *queries: Query,
    words: Words,
    size: Size,
    names: Words | None = None,
    runbooks: Sequence[str] = (),
) -> statetimeline.Panel:
    """What state each thing was in, as coloured stretches of time."""
    panel = _asked(_dressed(statetimeline.Panel(), title, description, "none", size, runbooks), queries)
    panel = _coloured(panel, None, (), TEXT).mappings([mapped(words)])
    panel = panel.show_value(kinds.VisibilityMode.AUTO).merge_values(True).row_height(0.8).fill_opacity(80)
    panel = panel.legend(common.VizLegendOptions().show_legend(False).display_mode(kinds.LegendDisplayMode.LIST))
    if names:
        for name, (text, _) in names.items():
            panel = panel.override_by_name(name, [change("displayName", text)])
    return panel


def lit(panel: stat.Panel, names: Words) -> stat.Panel:
    """Calls the series of these names by their Korean word, in its colour from 1 on."""
    for name, (text, colour) in names.items():
        steps = _steps([(None, TEXT), (1, colour)]).build()
        panel = panel.override_by_name(name, [change("displayName", text), change("thresholds", steps)])
    return panel


def relabel(panel: P, names: Words) -> P:
    """Calls the series of these names by their Korean word, in its colour."""
    for name, (text, colour) in names.items():
        panel = panel.override_by_name(
            name, [change("displayName", text), change("color", {"mode": "fixed", "fixedColor": colour})]
        )
    return panel


def table_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    size: Size,
    sort: str | None = None,
    descending: bool = False,
    no_value: str = NO_DATA,
    runbooks: Sequence[str] = (),
) -> table.Panel:
    """A table of what is so now. Its columns are named by a transformation, see `columns`."""
    panel = _asked(_dressed(table.Panel(), title, description, unit, size, runbooks), queries).no_value(no_value)
    panel = panel.cell_height(kinds.TableCellHeight.SM)
    panel = panel.thresholds(_plain())
    if sort:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    return panel


def columns(names: dict[str, str], *, hidden: Sequence[str] = ()) -> models.DataTransformerConfig:
    """`Organize fields`: the columns in this order by these names, and none of those hidden."""
    return models.DataTransformerConfig(
        id_val="organize",
        options={
            "indexByName": {name: n for n, name in enumerate(names)},
            "renameByName": names,
            "excludeByName": dict.fromkeys(hidden, True),
            "includeByName": {},
        },
    )


def merged() -> models.DataTransformerConfig:
    """`Merge series/tables`: one row for the same labels of several table queries."""
    return models.DataTransformerConfig(id_val="merge", options={})


def coloured_text() -> models.DynamicConfigValue:
    """Cells whose words have the colour of their mapping."""
    return change("custom.cellOptions", kinds.TableColorTextCellOptions())


def words_column(panel: table.Panel, name: str, words: Words, width: int | None = None) -> table.Panel:
    """A column in Korean words, coloured."""
    properties = [change("mappings", [mapped(words)]), coloured_text()]
    return panel.override_by_name(name, properties + ([change("custom.width", width)] if width else []))
