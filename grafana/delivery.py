"""알림 전달: from the webhook to the phone, the mailbox and Slack, and what got stuck on the way."""

from grafana_foundation_sdk.models import dashboard as models

from grafana.board import DELIVERY, Board, Panels, Row
from grafana.panels import (
    COUNT,
    change,
    columns,
    graph_panel,
    health_panel,
    stat_panel,
    state_panel,
    table_panel,
    words_column,
)
from grafana.queries import RECEIVER, series, target
from grafana.words import BLUE, CHANNELS, GREEN, ORANGE, OUTBOX, OUTCOMES, PURPLE, RED, UP, WEBHOOKS

HEARTBEAT = 600.0
"""Seconds without a heartbeat, from which the receiver itself raises the alarm."""
OLD = 600.0
"""Seconds that a message may wait, beyond which ColdChainOutboxOld fires."""
BALANCE = 100.0
"""Messages left at Aligo, below which ColdChainSmsBalanceLow fires."""
DELIVERIES = "coldchain_receiver_deliveries_total"
OUTBOX_SERIES = "coldchain_receiver_outbox_deliveries"
ACCEPTED = series("coldchain_receiver_webhooks_total", 'result="accepted"')


def board() -> Board:
    """The dashboard's definition."""
    return Board(
        uid=DELIVERY,
        description="알림이 웹훅으로 들어와 이메일, 문자, Slack으로 전달되기까지, 그리고 도중에 막힌 것.",
        jobs=RECEIVER,
        categories="monitoring",
        since="now-24h",
        top=_now(),
        rows=(
            Row("웹훅에서 전달까지", _flow()),
            Row("채널", _channels()),
            Row("발송 대기열", _outbox()),
            Row("문자", _messages()),
        ),
    )


def _now() -> Panels:
    waiting = series(OUTBOX_SERIES, 'state=~"pending|held|retrying"')
    failed = series(OUTBOX_SERIES, 'state="failed"')
    arrived, settled = (
        f"sum by (job, instance) (increase({series(DELIVERIES, f'outcome=~{outcomes}')}[24h]))"
        for outcomes in ('"delivered|partial"', '"delivered|partial|uncertain|failed"')
    )
    balance = series("coldchain_receiver_sms_balance_messages", 'type=~"sms|lms"')
    return (
        health_panel(
            "수신기",
            "Prometheus가 수신기에 닿을 수 있는지입니다. 중단되면 이메일, 문자, Slack 알림이 모두 나가지 않습니다.",
            target(f"min({series('up', RECEIVER)})", instant=True),
            UP,
            size=(3, 4),
            runbooks=["ColdChainReceiverDown"],
        ),
        stat_panel(
            "하트비트 이후",
            "Prometheus에서 수신기까지 길이 살아 있다는 마지막 신호 이후의 시간입니다. 10분이 넘으면 스스로 알립니다.",
            target(f"time() - {series('coldchain_receiver_heartbeat_timestamp_seconds')}", "{{instance}}"),
            unit="s",
            size=(3, 4),
            decimals=0,
            steps=[(None, GREEN), (HEARTBEAT, RED)],
            runbooks=["ColdChainWatchdog"],
        ),
        stat_panel(
            "발송 대기",
            "아직 끝나지 않은 발송 수입니다. 조용한 시간이라 보류한 것도 셉니다.",
            target(f"sum by (job, instance) ({waiting})", "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            runbooks=["ColdChainOutboxOld"],
        ),
        stat_panel(
            "가장 오래된 대기",
            "가장 오래 나가지 못한 알림이 기다린 시간입니다. 10분이 넘으면 주황색입니다.",
            target(f"max by (job, instance) ({series('coldchain_receiver_outbox_oldest_seconds')})", "{{instance}}"),
            unit="s",
            size=(3, 4),
            decimals=0,
            steps=[(None, GREEN), (OLD, ORANGE)],
            runbooks=["ColdChainOutboxOld"],
        ),
        stat_panel(
            "포기한 발송",
            "여러 번 시도한 끝에 포기하고 남겨 둔 발송 수입니다. 원인을 고친 뒤 다시 보낼 수 있습니다.",
            target(f"sum by (job, instance) ({failed})", "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            steps=[(None, GREEN), (1, RED)],
            runbooks=["ColdChainDeliveriesFailing"],
        ),
        stat_panel(
            "24시간 전달률",
            "지난 24시간에 끝난 발송 가운데 받는 사람에게 전달된 비율입니다.",
            target(f"{arrived}\n  / ({settled} > 0)", "{{instance}}", instant=True),
            unit="percentunit",
            size=(3, 4),
            decimals=1,
            steps=[(None, RED), (0.95, ORANGE), (0.99, GREEN)],
            graph=False,
            no_value="발송 없음",
            runbooks=["ColdChainDeliveriesFailing"],
        ),
        stat_panel(
            "24시간 접수",
            "지난 24시간에 Alertmanager에서 받아 저장한 알림 수입니다.",
            target(f"sum by (job, instance) (increase({ACCEPTED}[24h]))", "{{instance}}", instant=True),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            graph=False,
        ),
        stat_panel(
            "문자 잔여",
            "알리고에서 더 보낼 수 있는 건수로, 단문과 장문 가운데 적은 쪽입니다. 100건보다 적으면 주황색입니다.",
            target(f"min by (job, instance) ({balance})", "{{instance}}"),
            unit=COUNT,
            size=(3, 4),
            decimals=0,
            steps=[(None, ORANGE), (BALANCE, GREEN)],
            no_value="문자 꺼짐",
            runbooks=["ColdChainSmsBalanceLow"],
        ),
    )


def _flow() -> Panels:
    webhooks = series("coldchain_receiver_webhooks_total")
    return (
        graph_panel(
            "받은 웹훅",
            "Alertmanager가 보낸 웹훅을 처리 결과별로 쌓았습니다. 저장 불가는 Alertmanager가 다시 보냅니다.",
            target(f"sum by (result) (increase({webhooks}[$__interval]))", "{{result}}"),
            unit=COUNT,
            size=(8, 8),
            names=WEBHOOKS,
            decimals=0,
            stacked=True,
            bars=True,
            interval="5m",
        ),
        graph_panel(
            "발송 결과",
            "발송 시도를 결과별로 쌓았습니다. 재시도는 끝난 발송이 아니라 다시 시도할 것으로 남은 것입니다.",
            target(f"sum by (outcome) (increase({series(DELIVERIES)}[$__interval]))", "{{outcome}}"),
            unit=COUNT,
            size=(8, 8),
            names=OUTCOMES,
            decimals=0,
            stacked=True,
            bars=True,
            interval="5m",
            runbooks=["ColdChainDeliveriesFailing"],
        ),
        graph_panel(
            "하트비트 간격",
            "마지막 하트비트 이후로 지난 시간입니다. 점선(10분)을 넘으면 수신기가 스스로 알립니다.",
            target(f"time() - {series('coldchain_receiver_heartbeat_timestamp_seconds')}", "하트비트 {{instance}}"),
            unit="s",
            size=(8, 8),
            constant=(HEARTBEAT, RED),
            runbooks=["ColdChainWatchdog"],
        ),
    )


def _channels() -> Panels:
    buckets = series("coldchain_receiver_delivery_seconds_bucket")
    hourly = series("instance_channel_outcome:coldchain_receiver_deliveries:increase1h", 'outcome!="retried"')
    outcomes = {name: text for name, (text, _) in OUTCOMES.items()}
    results = (
        table_panel(
            "채널별 24시간 결과",
            "지난 24시간의 발송 결과를 채널마다 셌습니다. 재시도는 시도마다 한 번씩 셉니다.",
            target(f"sum by (channel, outcome) (increase({series(DELIVERIES)}[24h]))", table=True),
            unit=COUNT,
            size=(12, 7),
            runbooks=["ColdChainDeliveriesFailing"],
        )
        .with_transformation(
            models.DataTransformerConfig(
                id_val="groupingToMatrix",
                options={"columnField": "outcome", "rowField": "channel", "valueField": "Value", "emptyValue": "zero"},
            )
        )
        .with_transformation(columns({"channel\\outcome": "채널", **outcomes}))
    ).override_by_regexp("/^(?!채널$)/", [change("decimals", 0)])
    return (
        state_panel(
            "채널 상태",
            "마지막 발송이 성공했으면 정상, 실패했으면 중단입니다. 아직 보낸 적이 없는 채널은 비어 있습니다.",
            target(series("coldchain_receiver_channel_up"), "{{channel}}"),
            words=UP,
            size=(12, 7),
            names=CHANNELS,
            runbooks=["ColdChainDeliveriesFailing"],
        ),
        words_column(results, "채널", CHANNELS, 110),
        graph_panel(
            "전달에 걸린 시간 (95%)",
            "웹훅을 받은 뒤 채널이 받아들이기까지, 최근 1시간 발송의 95%가 그 안에 끝난 시간입니다.",
            target(series("instance_channel:coldchain_receiver_delivery_seconds:p95_rate1h"), "{{channel}}"),
            unit="s",
            size=(8, 8),
            names=CHANNELS,
        ),
        graph_panel(
            "전달에 걸린 시간 (중앙값)",
            "웹훅을 받은 뒤 채널이 받아들이기까지, 최근 1시간 발송의 절반이 그 안에 끝난 시간입니다.",
            target(f"histogram_quantile(0.5, sum by (channel, le) (increase({buckets}[1h])))", "{{channel}}"),
            unit="s",
            size=(8, 8),
            names=CHANNELS,
        ),
        graph_panel(
            "채널별 발송 (최근 1시간)",
            "최근 1시간에 끝난 발송을 채널마다 쌓았습니다.",
            target(f"sum by (channel) ({hourly})", "{{channel}}"),
            unit=COUNT,
            size=(8, 8),
            names=CHANNELS,
            stacked=True,
        ),
    )


def _outbox() -> Panels:
    failed = series(OUTBOX_SERIES, 'state="failed"')
    return (
        graph_panel(
            "대기열의 상태",
            "끝나지 않은 발송을 상태별로 쌓았습니다. 발송 포기는 사람이 다시 보낼 때까지 남습니다.",
            target(f"sum by (state) ({series(OUTBOX_SERIES)})", "{{state}}"),
            unit=COUNT,
            size=(8, 8),
            decimals=0,
            names=OUTBOX,
            stacked=True,
        ),
        graph_panel(
            "가장 오래된 대기 시간",
            "채널마다 가장 오래 나가지 못한 알림이 기다린 시간입니다. 점선은 알림이 울리는 10분입니다.",
            target(f"max by (channel) ({series('coldchain_receiver_outbox_oldest_seconds')})", "{{channel}}"),
            unit="s",
            size=(8, 8),
            names=CHANNELS,
            constant=(OLD, ORANGE),
            runbooks=["ColdChainOutboxOld"],
        ),
        graph_panel(
            "채널별 포기한 발송",
            "채널마다 포기하고 남겨 둔 발송 수입니다.",
            target(f"sum by (channel) ({failed})", "{{channel}}"),
            unit=COUNT,
            size=(8, 8),
            decimals=0,
            names=CHANNELS,
            stacked=True,
            runbooks=["ColdChainDeliveriesFailing"],
        ),
    )


def _messages() -> Panels:
    return (
        graph_panel(
            "알리고 잔여 건수",
            "종류마다 더 보낼 수 있는 건수입니다. 한글 알림은 대개 장문입니다. 점선은 알림이 울리는 100건입니다.",
            target(f"min by (type) ({series('coldchain_receiver_sms_balance_messages')})", "{{type}}"),
            unit=COUNT,
            size=(24, 7),
            decimals=0,
            names={"sms": ("단문", BLUE), "lms": ("장문", PURPLE), "mms": ("사진", GREEN)},
            constant=(BALANCE, ORANGE),
            runbooks=["ColdChainSmsBalanceLow"],
        ),
    )
