"""What every dashboard has: variables, annotations of firing alerts, links to the others, numbered panels."""

from collections.abc import Iterable
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from grafana.panels import link
from grafana.queries import SOURCE, firing
from grafana.words import ORANGE, RED

# Alerts and bookmarks hold on to these.
OVERVIEW, DISPATCH, HOST, DELIVERY = "coldchain-overview", "coldchain-dispatch", "coldchain-host", "coldchain-delivery"
TITLES = {OVERVIEW: "운영 개요", DISPATCH: "배차 업무", HOST: "호스트와 데이터베이스", DELIVERY: "알림 전달"}
ICONS = {OVERVIEW: "apps", DISPATCH: "cube", HOST: "bolt", DELIVERY: "bell"}  # fmt: skip

Panels = tuple[Builder[models.Panel], ...]


@dataclass(frozen=True)
class Site:
    """Where the links lead. Each dashboard holds them as hidden constants, for whoever edits the JSON instead."""

    runbooks: str = "http://localhost:8000/runbooks"
    alertmanager: str = "http://localhost:9093"


@dataclass(frozen=True)
class Row:
    """A headed group of panels; `folded` ones ask nothing until they are opened."""

    title: str
    panels: Panels
    folded: bool = False


@dataclass(frozen=True)
class Board:
    """A dashboard: first the panels without a heading, then the rows."""

    uid: str
    description: str
    jobs: str
    """Matcher of the jobs that it shows."""
    top: Panels
    rows: tuple[Row, ...] = ()
    variables: tuple[Builder[models.VariableModel], ...] = ()
    categories: str = ".+"
    """Of the alerts that are marked on its graphs."""
    since: str = "now-6h"

    def build(self, site: Site) -> models.Dashboard:
        """The dashboard as Grafana's classic JSON has it."""
        built = (
            dashboard.Dashboard(TITLES[self.uid])
            .uid(self.uid)
            .description(self.description)
            .tags(["coldchain"])
            .readonly()
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time(self.since, "now")
            .timezone("browser")
            .week_start("monday")
            .refresh("15s")
        )
        built = built.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        built = built.with_variable(_targets("job", f"label_values(up{{{self.jobs}}}, job)"))
        built = built.with_variable(_targets("instance", f'label_values(up{{job=~"$job", {self.jobs}}}, instance)'))
        for variable in self.variables:
            built = built.with_variable(variable)
        for name, url in (("runbooks", site.runbooks), ("alertmanager", site.alertmanager)):
            built = built.with_variable(dashboard.ConstantVariable(name).value(url))
        built = built.annotation(self._marks("위험 알림", "critical", RED))
        built = built.annotation(self._marks("경고 알림", "warning", ORANGE))
        for other in self._links():
            built = built.link(other)
        for panel in self.top:
            built = built.with_panel(panel)
        for row in self.rows:
            heading = dashboard.Row(row.title)
            if row.folded:
                for panel in row.panels:
                    heading = heading.with_panel(panel)
                built = built.with_row(heading)
            else:
                built = built.with_row(heading)
                for panel in row.panels:
                    built = built.with_panel(panel)
        return _numbered(built.build())

    def _marks(self, name: str, severity: str, colour: str) -> dashboard.AnnotationQuery:
        return (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(colour)
            .expr(firing(f'severity="{severity}", category=~"{self.categories}"'))
            .title_format("{{alertname}}")
            .text_format("{{instance}} {{mountpoint}}{{channel}}{{plate}}")
            .tag_keys("severity,category")
        )

    def _links(self) -> Iterable[dashboard.DashboardLink]:
        for uid, title in TITLES.items():
            if uid != self.uid:
                to = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(f"/d/{uid}")
                # The receiver is another job on another address than what the other three show.
                yield to.icon(ICONS[uid]).keep_time(True).include_vars(DELIVERY not in {uid, self.uid})
        yield link("Alertmanager", "${alertmanager:raw}/#/alerts").icon("external link")


def label_values(name: str, title: str, query: str, current: str | None = None) -> dashboard.QueryVariable:
    """A variable of one label's values, of which one is chosen."""
    variable = dashboard.QueryVariable(name).label(title).datasource(SOURCE).query(query).definition(query)
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.NUMERICAL_ASC)
    return variable.current(models.VariableOption(text=current, value=current)) if current else variable


def _targets(name: str, query: str) -> dashboard.QueryVariable:
    """`job` and `instance`, as Grafana's dashboard linter asks for them."""
    return (
        label_values(name, name.title(), query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(text=["All"], value=["$__all"]))
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _numbered(built: models.Dashboard) -> models.Dashboard:
    number = 0
    for panel in built.panels or []:
        for each in [panel, *(panel.panels if isinstance(panel, models.RowPanel) else [])]:
            number += 1
            each.id_val = number
    return built
