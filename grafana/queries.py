"""PromQL with the dashboards' variables in it: selectors, health from alerts, limits from coldchain_alert_threshold."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from grafana.words import GREEN, SEVERITIES

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
EXPORTER, RECEIVER = 'job="coldchain-exporter"', 'job="coldchain-receiver"'


def series(metric: str, matchers: str = "") -> str:
    """The metric of the chosen jobs and instances."""
    return f'{metric}{{job=~"$job", instance=~"$instance"{matchers and ", " + matchers}}}'


def alerts(metric: str, matchers: str) -> str:
    """ALERTS or ALERTS_FOR_STATE of the chosen jobs and instances, and those of no instance.

    A target that is gone from Prometheus's configuration raises its alert without an instance: hence the bar.
    """
    return f'{metric}{{job=~"$job", instance=~"$instance|", {matchers}}}'


def firing(matchers: str) -> str:
    """The alerts that fire, each 1."""
    return alerts("ALERTS", f'alertstate="firing", {matchers}')


def health(basis: str, category: str = ".+") -> str:
    """0 fine, 1 a warning fires, 2 a critical alert fires; nothing where `basis` has no series, for nobody knows then.

    ColdChainOrdersStopped is left out: it fires every night, and Alertmanager passes it on in business hours only.
    """
    chosen = f'category=~"{category}", alertname!="ColdChainOrdersStopped"'
    critical, warning = (firing(f'severity="{severity}", {chosen}') for severity in ("critical", "warning"))
    return f"max(\n  2 * {critical}\n  or\n  1 * {warning}\n  or\n  {basis}\n)"


def target(
    expr: str, legend: str = "", *, ref: str = "A", instant: bool = False, table: bool = False
) -> prometheus.Dataquery:
    """A query of a panel: over the panel's time range unless `instant` or, all labels as columns, a `table`."""
    query = prometheus.Dataquery().datasource(SOURCE).editor_mode(QueryEditorMode.CODE)
    query = query.expr(expr).legend_format(legend).ref_id(ref)
    query = query.instant() if instant or table else query.range()
    return query.format(PromQueryFormat.TABLE if table else PromQueryFormat.TIME_SERIES)


@dataclass(frozen=True)
class Limits:
    """The limits of an alert, read from the exporter at the time of looking: change one there, and the line moves."""

    alert: str
    severities: tuple[str, ...] = ("warning", "critical")
    lower: bool = False

    def lines(self) -> list[prometheus.Dataquery]:
        """A query for each limit, drawn as a line of its own, none where it is off; its ref is the severity."""
        return [
            target(self._limit(severity, "> -Inf" if self.lower else "< +Inf"), f"{word} 임계값", ref=severity)
            for severity, (word, _) in SEVERITIES.items()
            if severity in self.severities
        ]

    def steps(self) -> prometheus.Dataquery:
        """One row with the limits as the text of labels limit_0, limit_1 …, which `colouring` makes steps of colour of.

        Rules compare with `>` and Grafana with `>=`, so the step of an upper limit begins a millionth above it. One
        that is off reads "+Inf", which Grafana leaves out as no number.
        """
        off, above = ("> -Inf", "") if self.lower else ("", " + 0.000001")
        counted = [
            f'count_values("limit_{n}", {self._limit(severity, off)}{above})'
            for n, severity in enumerate(self.severities, 1)
        ]
        joined = "\n  * on () group_left (limit_2)\n  ".join(counted)
        return target(f'label_replace(\n  {joined},\n  "limit_0", "0", "", ""\n)', ref="limits", table=True)

    def colouring(self) -> dashboard.DataTransformerConfig:
        """`Config from query results`: green up to the first limit, then its colour; the other way round if `lower`."""
        colours = [SEVERITIES[severity][1] for severity in self.severities]
        mappings = [
            {
                "fieldName": f"limit_{n}",
                "handlerKey": "threshold1",
                "handlerArguments": {"threshold": {"color": colour}},
            }
            for n, colour in enumerate([*colours, GREEN] if self.lower else [GREEN, *colours])
        ]
        return dashboard.DataTransformerConfig(
            id_val="configFromData", options={"configRefId": "limits", "mappings": mappings}
        )

    def _limit(self, severity: str, kept: str) -> str:
        """The limit of one severity, the strictest where several instances are chosen."""
        selector = series("coldchain_alert_threshold", f'alert="{self.alert}", severity="{severity}"')
        return f"{'max' if self.lower else 'min'}({selector}{kept and ' ' + kept})"


CPU = Limits("ColdChainCpuHigh")
MEMORY = Limits("ColdChainMemoryHigh")
DISK = Limits("ColdChainDiskHigh")
SLOW = Limits("ColdChainDatabaseSlow")
WAITING = Limits("ColdChainOrdersWaiting", ("warning",))
OVERDUE = Limits("ColdChainDispatchesOverdue", ("warning",))
UTILIZATION = Limits("ColdChainVehicleUtilizationLow", ("info",), lower=True)
