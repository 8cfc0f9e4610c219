"""The committed JSON: that of the code, whole, and without anything that Grafana would stumble over."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from grafana import delivery, dispatch
from grafana.board import Site
from grafana.build import documents, main
from tests.deploy.contract import ALERTS, SERIES
from tests.deploy.files import RULE_FILES, RUNBOOKS, alerts
from tests.grafana.dashboards import FILES, FOLDER, VARIABLE, Json, document, panels

PROVISIONING = FOLDER.parent / "provisioning"
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
TITLES = {
    "coldchain-overview": "운영 개요",
    "coldchain-dispatch": "배차 업무",
    "coldchain-host": "호스트와 데이터베이스",
    "coldchain-delivery": "알림 전달",
}
KOREAN = re.compile("[가-힣]")


def texts(value: Any) -> Iterator[str]:
    """Every text anywhere in the JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def links(value: Any) -> Iterator[str]:
    """Every address that a dashboard leads to."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str):
            yield value["url"]
        for each in value.values():
            yield from links(each)
    elif isinstance(value, list):
        for each in value:
            yield from links(each)


def test_committed_json_is_what_the_code_writes() -> None:
    assert {path.name: path.read_text("utf-8") for path in FILES} == documents(Site())


def test_each_is_known_by_its_uid_and_title() -> None:
    assert {path.stem: document(path)["title"] for path in FILES} == TITLES
    assert all(document(path)["uid"] == path.stem for path in FILES)


def test_sdk_reads_back_what_is_committed(dashboard: Json) -> None:
    read = models.Dashboard.from_json(dashboard)
    assert (read.uid, len(read.panels or [])) == (dashboard["uid"], len(dashboard["panels"]))


def test_ids_of_panels_are_unique(dashboard: Json) -> None:
    every = [each["id"] for panel in dashboard["panels"] for each in [panel, *panel.get("panels", [])]]
    assert [number for number, times in Counter(every).items() if times > 1] == []


def test_refs_of_queries_are_unique_in_a_panel(dashboard: Json) -> None:
    for panel in panels(dashboard):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]


def test_titles_of_panels_are_unique(dashboard: Json) -> None:
    assert [title for title, times in Counter(panel["title"] for panel in panels(dashboard)).items() if times > 1] == []


def test_panels_fill_the_grid_without_overlap(dashboard: Json) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        for each in [panel, *panel.get("panels", [])]:
            at = each["gridPos"]
            assert at["x"] >= 0
            assert at["x"] + at["w"] <= 24, each["title"]
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                assert cell not in taken, f"{each['title']} lies on {taken[cell]}"
                taken[cell] = each["title"]
    rows = Counter(y for _, y in taken)
    assert {y: width for y, width in rows.items() if width != 24} == {}
    assert sorted(rows) == list(range(len(rows)))


def test_first_screen_of_the_overview_is_all_of_it() -> None:
    # 1080 lines less the browser's and Grafana's bars are about 850: 22 units of 30 pixels and 8 between them.
    overview = document(FOLDER / "coldchain-overview.json")
    assert max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in overview["panels"]) == 22


def test_titles_and_descriptions_are_korean(dashboard: Json) -> None:
    said = [dashboard["title"], dashboard["description"]]
    said += [panel["description"] for panel in panels(dashboard)]
    said += [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert [text for text in said if not KOREAN.search(text)] == []
    # A few words are the same in Korean
    assert [panel["title"] for panel in panels(dashboard) if not KOREAN.search(panel["title"])] in ([], ["CPU"])


def test_units_are_grafanas(dashboard: Json) -> None:
    used = {panel["title"]: panel["fieldConfig"]["defaults"].get("unit") for panel in panels(dashboard)}
    for panel in panels(dashboard):
        for override in panel["fieldConfig"]["overrides"]:
            used |= {f"{panel['title']}/{p['value']}": p["value"] for p in override["properties"] if p["id"] == "unit"}
    assert {title: unit for title, unit in used.items() if unit not in UNITS} == {}


def test_every_variable_is_defined_and_used(dashboard: Json) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = {name[1] or name[2] for text in texts(dashboard) for name in VARIABLE.finditer(text)}
    assert {name for name in used if not name.startswith("__")} == defined


def test_links_lead_somewhere(dashboard: Json) -> None:
    pages = {f"${{runbooks:raw}}/ko/{name}.md" for name, _ in ALERTS} | {"${runbooks:raw}/ko/${__value.raw}.md"}
    others = {f"/d/{uid}" for uid in TITLES if uid != dashboard["uid"]}
    found = set(links(dashboard))
    assert others <= found
    assert "${alertmanager:raw}/#/alerts" in found
    assert found - others - pages <= {
        "${alertmanager:raw}/#/alerts",
        "${alertmanager:raw}/#/alerts?filter=%7Balertname%3D%22${__value.raw}%22%7D",
    }


def test_links_of_runbooks_and_dashboards_are_those_of_the_rules() -> None:
    for rule in alerts(RULE_FILES):
        annotations = rule["annotations"]
        assert annotations["runbook_url"] == f"{Site.runbooks}/ko/{rule['alert']}.md"
        found = re.fullmatch(r"http://localhost:3000/d/([\w-]+)(.*)", annotations["dashboard_url"])
        assert found
        assert found[1] in TITLES
        assert found[2] in {
            "",
            "?var-instance={{ $labels.instance }}",
            "?var-instance={{ $labels.instance }}&var-plate={{ $labels.plate | urlquery }}",
            "{{ with $labels.instance }}?var-instance={{ . }}{{ end }}",
        }
    assert {path.stem for path in (RUNBOOKS / "ko").glob("*.md")} >= {name for name, _ in ALERTS}


def test_another_site_has_other_links(tmp_path: Path) -> None:
    main(
        ["--out", str(tmp_path), "--runbooks", "https://ops.example/runbooks/", "--alertmanager", "https://am.example"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in FILES]
    variables = document(tmp_path / "coldchain-host.json")["templating"]["list"]
    assert {v["name"]: v["query"] for v in variables if v["type"] == "constant"} == {
        "runbooks": "https://ops.example/runbooks",
        "alertmanager": "https://am.example",
    }


def test_known_statuses_have_korean_names_and_colours() -> None:
    panel = {
        panel["title"]: {o["matcher"]["options"]: o["properties"] for o in panel["fieldConfig"]["overrides"]}
        for path in FILES
        for panel in panels(document(path))
    }
    shown = {
        title: {name: properties[0]["value"] for name, properties in panel[title].items()}
        for title in ("주문 상태", "배차 상태")
    }
    assert shown == {
        "주문 상태": {
            "pending": "배차대기",
            "assigned": "배차완료",
            "in_transit": "운송중",
            "delivered": "배송완료",
            "cancelled": "취소",
        },
        "배차 상태": {
            "draft": "임시저장",
            "confirmed": "확정",
            "in_progress": "진행중",
            "completed": "완료",
            "cancelled": "취소",
        },
    }


@pytest.mark.parametrize(
    ("title", "metric", "label"),
    [
        ("주문 상태", "coldchain_orders", "status"),
        ("배차 상태", "coldchain_dispatches", "status"),
        ("차량 상태", "coldchain_vehicles", "status"),
        ("받은 웹훅", "coldchain_receiver_webhooks_total", "result"),
        ("발송 결과", "coldchain_receiver_deliveries_total", "outcome"),
        ("대기열의 상태", "coldchain_receiver_outbox_deliveries", "state"),
        ("가장 오래된 대기 시간", "coldchain_receiver_outbox_oldest_seconds", "channel"),
        ("알리고 잔여 건수", "coldchain_receiver_sms_balance_messages", "type"),
    ],
)
def test_every_value_of_a_label_has_a_word(title: str, metric: str, label: str) -> None:
    (panel,) = (each for path in FILES for each in panels(document(path)) if each["title"] == title)
    named = {o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"] if o["matcher"]["id"] == "byName"}
    assert named == SERIES[metric][label]


def test_every_alert_has_its_title_in_the_list_of_those_that_fire() -> None:
    overview = document(FOLDER / "coldchain-overview.json")
    (panel,) = (each for each in panels(overview) if each["title"] == "발생 중인 알림 목록")
    (override,) = (o for o in panel["fieldConfig"]["overrides"] if o["matcher"]["options"] == "알림")
    words = {name: result["text"] for name, result in override["properties"][0]["value"][0]["options"].items()}
    assert words == {
        f"{name}/{severity}": alert.title for (name, severity), alert in ALERTS.items() if severity != "none"
    }


def test_constant_lines_are_those_of_the_rules() -> None:
    """What the exporter has no limit for stands in a rule's expression, and here."""
    expressions = {rule["alert"]: re.sub(r"\s+", " ", rule["expr"]) for rule in alerts(RULE_FILES)}
    assert f"outbox_oldest_seconds / 60 > {delivery.OLD / 60:.0f}" in expressions["ColdChainOutboxOld"]
    assert expressions["ColdChainSmsBalanceLow"].endswith(f" < {delivery.BALANCE:.0f}")
    assert f"/ 3600 > {dispatch.STOPPED / 3600:.0f}," in expressions["ColdChainOrdersStopped"]
    assert f"/ 60 >= {dispatch.SILENT / 60:.0f})" in expressions["ColdChainTemperatureSensorSilent"]


def test_provisioning_names_what_the_dashboards_need() -> None:
    (sources,) = (yaml.safe_load(path.read_text("utf-8")) for path in (PROVISIONING / "datasources").glob("*.yaml"))
    assert {source["type"]: (source["uid"], source["url"]) for source in sources["datasources"]} == {
        "prometheus": ("coldchain-prometheus", "http://localhost:9090"),
        "alertmanager": ("coldchain-alertmanager", Site.alertmanager),
    }
    (providers,) = (yaml.safe_load(path.read_text("utf-8")) for path in (PROVISIONING / "dashboards").glob("*.yaml"))
    (provider,) = providers["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/coldchain"
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)


def test_nothing_is_left_null_that_grafana_wants() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        assert json.loads(text)["schemaVersion"] >= 39
        # Only a first step of thresholds, which stands for minus infinity
        assert set(re.findall(r'"(\w+)": null', text)) == {"value"}
