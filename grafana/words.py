"""Korean words and colours, one pair for each thing, so that a status looks the same on every dashboard."""

from pathlib import Path

import yaml

Words = dict[str, tuple[str, str]]
"""What Prometheus says → (what people read, colour)."""

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY, TEXT = (
    "green", "yellow", "orange", "red", "blue", "purple", "#8E8E8E", "text",
)  # fmt: skip
LIGHT_BLUE, LIGHT_PURPLE = "light-blue", "light-purple"
NO_DATA = "데이터 없음"

HEALTH: Words = {"0": ("정상", GREEN), "1": ("주의", ORANGE), "2": ("위험", RED)}
UP: Words = {"1": ("정상", GREEN), "0": ("중단", RED)}
SEVERITIES: Words = {"critical": ("위험", RED), "warning": ("경고", ORANGE), "info": ("정보", BLUE)}
CATEGORIES: Words = {
    "system": ("시스템", TEXT),
    "database": ("데이터베이스", TEXT),
    "business": ("업무", TEXT),
    "monitoring": ("모니터링", TEXT),
}
SOURCES: Words = {
    "host": ("호스트", TEXT),
    "database": ("데이터베이스", TEXT),
    "orders": ("주문", TEXT),
    "dispatches": ("배차", TEXT),
    "vehicles": ("차량", TEXT),
    "vehicle_temperature": ("차량 온도", TEXT),
}
ORDERS: Words = {
    "pending": ("배차대기", ORANGE),
    "assigned": ("배차완료", LIGHT_BLUE),
    "in_transit": ("운송중", BLUE),
    "delivered": ("배송완료", GREEN),
    "cancelled": ("취소", GREY),
}
DISPATCHES: Words = {
    "draft": ("임시저장", LIGHT_PURPLE),
    "confirmed": ("확정", LIGHT_BLUE),
    "in_progress": ("진행중", BLUE),
    "completed": ("완료", GREEN),
    "cancelled": ("취소", GREY),
}
VEHICLES: Words = {
    "available": ("운행 가능", GREEN),
    "in_use": ("운행 중", BLUE),
    "maintenance": ("정비 중", YELLOW),
    "emergency_maintenance": ("긴급 정비", ORANGE),
    "breakdown": ("고장", RED),
    "out_of_service": ("운행 중지", GREY),
}
CHANNELS: Words = {"email": ("이메일", PURPLE), "slack": ("Slack", GREEN), "sms": ("문자", BLUE)}
WEBHOOKS: Words = {
    "accepted": ("접수", GREEN),
    "duplicate": ("중복", LIGHT_BLUE),
    "invalid": ("형식 오류", ORANGE),
    "unauthorized": ("인증 실패", YELLOW),
    "unavailable": ("저장 불가", RED),
}
OUTCOMES: Words = {
    "delivered": ("전달", GREEN),
    "partial": ("일부 전달", YELLOW),
    "uncertain": ("결과 미확인", PURPLE),
    "retried": ("재시도", ORANGE),
    "merged": ("묶음 발송", LIGHT_BLUE),
    "suppressed": ("발송 생략", GREY),
    "failed": ("발송 포기", RED),
}
OUTBOX: Words = {
    "pending": ("대기", BLUE),
    "held": ("보류", PURPLE),
    "retrying": ("재시도 중", ORANGE),
    "failed": ("발송 포기", RED),
}

RULES = Path(__file__).resolve().parent.parent / "deploy" / "prometheus" / "rules"


def titles() -> Words:
    """Every alert of the shipped rules, as `ColdChainCpuHigh/critical`, with its summary."""
    return {
        f"{rule['alert']}/{rule['labels']['severity']}": (rule["annotations"]["summary"], TEXT)
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule and rule["labels"]["severity"] in SEVERITIES
    }
