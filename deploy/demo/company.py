"""A small dispatch company in an SQLite file that lives, so that the monitoring has something to watch.

Everything that will happen stands in `demo_events` with its time; whatever is due is done at the second it was due,
the past 8 days at the first start as well as every second from then on. What is decided depends on the seed and the
event alone, so the same seed and clock make the same rows, however often it is stopped in between.
"""

import argparse
import logging
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

log = logging.getLogger("company")

SEOUL = ZoneInfo("Asia/Seoul")
HISTORY = timedelta(days=8)
TEMPERATURES_KEPT = timedelta(hours=6)
ROWS_KEPT = timedelta(days=40)
LATE = timedelta(hours=2, minutes=5)  # a little more than the two hours after which an order counts as waiting

# Orders by hour of the day in Seoul: the morning's restocking and the evening's orders for delivery at dawn.
MORNING = (0.9, 0.85, 0.85, 0.85, 0.9, 0.9, 0.95, 1.0, 1.1, 1.25, 1.25, 1.15)
RHYTHM = (*MORNING, 1.0, 1.0, 1.05, 1.05, 1.0, 1.0, 1.0, 1.05, 1.1, 1.1, 1.0, 0.95)

ZONES = ("FROZEN", "REFRIGERATED", "AMBIENT")
ZONE_WEIGHTS = (35, 60, 5)
ZONE_NAMES = {"FROZEN": "냉동", "REFRIGERATED": "냉장", "AMBIENT": "상온"}
CARRIERS = {"FROZEN": ("FROZEN",), "REFRIGERATED": ("REFRIGERATED", "FROZEN"), "AMBIENT": ZONES[::-1]}
RANGES = {"FROZEN": (-25.0, -18.0), "REFRIGERATED": (0.0, 6.0), "AMBIENT": (None, None)}  # °C
LOAD = 4  # orders in one vehicle

SCHEMA = Path(__file__).with_name("company.sql")


class DemoError(Exception):
    """Something that the user can mend, in the user's words."""


@dataclass(frozen=True)
class Settings:
    """How the business goes."""

    seed: int = 1
    orders_per_hour: float = 14  # the day's mean
    speed: float = 1  # orders come, and are dealt with, so many times as fast
    vehicles: int = 50
    backlog_every: float = 30  # hours between two backlogs that come by themselves; 0: never


def stamp(time: datetime) -> str:
    """A time as SQLAlchemy writes it to SQLite: naive, here in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def moment(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open the company's file; raises DemoError when it is another's."""
    if not create and not path.exists():
        raise DemoError(f"{path} does not exist: start the company first, with `make up`")
    try:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise DemoError(f"{path}: {error}") from error
    if (tables or not create) and "demo_events" not in tables:
        connection.close()
        raise DemoError(f"{path} is not a demo company's; nothing was changed")
    return connection


class Company:
    """The business. Each public method is one transaction."""

    def __init__(self, connection: sqlite3.Connection, settings: Settings | None = None) -> None:
        self._sql = connection.execute
        self._connection = connection
        self.settings = settings or Settings(*self._sql("SELECT * FROM demo_settings").fetchone())
        self._calm: datetime | None = None  # while the past is made up: the present, in which all is to be well
        self._handlers: dict[str, Callable[[datetime, int, random.Random], None]] = {
            "order": self._order,
            "plan": self._plan,
            "cancel": lambda at, order, _: self._move_order(at, order, "PENDING", "CANCELLED"),
            "transit": lambda at, order, _: self._move_order(at, order, "ASSIGNED", "IN_TRANSIT"),
            "deliver": lambda at, order, _: self._move_order(at, order, "IN_TRANSIT", "DELIVERED"),
            "confirm": lambda at, dispatch, _: self._move_dispatch(at, dispatch, "CONFIRMED"),
            "depart": lambda at, dispatch, _: self._move_dispatch(at, dispatch, "IN_PROGRESS", "IN_USE"),
            "return": lambda at, dispatch, _: self._move_dispatch(at, dispatch, "COMPLETED", "AVAILABLE"),
            "workshop": self._workshop,
            "repaired": lambda at, vehicle, _: self._move_vehicle(at, vehicle, "AVAILABLE"),
            "temperature": self._temperature,
            "dock": self._dock,
            "reopen": self._reopen,
            "release": lambda at, _order, _: self._again("plan", at),
            "report": self._report,
        }

    # What can be asked of it

    def open(self, now: datetime) -> None:
        """Make up the past 8 days in a new file; catch up in one that was left."""
        self._sql("PRAGMA journal_mode = WAL")
        self._sql("PRAGMA synchronous = NORMAL")
        new = not self._sql("SELECT 1 FROM sqlite_master WHERE name = 'demo_events'").fetchone()
        with self._connection:
            self._sql("BEGIN IMMEDIATE")
            if new:
                for statement in SCHEMA.read_text().split(";"):
                    self._sql(statement)
                self._found(now)
            self._sql("DELETE FROM demo_settings")
            self._sql("INSERT INTO demo_settings VALUES (?, ?, ?, ?, ?)", astuple(self.settings))
            self._calm = now if new else None
            self._run_until(now)
            self._calm = None

    def step(self, now: datetime) -> None:
        """Do whatever is due."""
        with self._connection:
            self._sql("BEGIN IMMEDIATE")
            self._run_until(now)

    def incident(self, now: datetime, orders: int, hold: timedelta) -> int:
        """Put orders of more than two hours ago back to PENDING and leave them so for a while; how many there were."""
        with self._connection:
            self._sql("BEGIN IMMEDIATE")
            rows = self._sql(
                "SELECT id FROM orders WHERE created_at < ? AND status IN ('ASSIGNED', 'IN_TRANSIT', 'DELIVERED')"
                " ORDER BY status = 'DELIVERED', id DESC LIMIT ?",
                (stamp(now - LATE), orders),
            ).fetchall()
            for (order,) in rows:
                self._sql("DELETE FROM demo_events WHERE kind IN ('transit', 'deliver') AND id = ?", (order,))
                self._sql("UPDATE orders SET status = 'PENDING', updated_at = ? WHERE id = ?", (stamp(now), order))
                self._later("release", now + hold, order)
        return len(rows)

    def resolve(self, now: datetime) -> tuple[int, int]:
        """Dispatch whatever waits; how many waited for over two hours before, and how many still do."""
        before = self.waiting(now)
        with self._connection:
            self._sql("BEGIN IMMEDIATE")
            self._sql("DELETE FROM demo_events WHERE kind IN ('release', 'reopen')")
            self._again("plan", now)
            self._run_until(now)
        return before, self.waiting(now)

    def waiting(self, now: datetime) -> int:
        """Orders that are PENDING for over two hours."""
        late = stamp(now - timedelta(hours=2))
        return self._count("orders WHERE status = 'PENDING' AND created_at < ?", late)

    def alive(self, now: datetime) -> bool:
        """Whether a `run` works on the file: the temperatures of the last minutes are there."""
        return not self._count("demo_events WHERE kind = 'temperature' AND due < ?", stamp(now - timedelta(minutes=2)))

    # The machinery

    def _found(self, now: datetime) -> None:
        start = now - HISTORY
        rng = self._dice("fleet")
        for vehicle in range(1, self.settings.vehicles + 1):
            kind = ZONES[1] if vehicle % 2 else ZONES[2] if vehicle % 20 == 10 else ZONES[0]
            plate = f"{rng.randint(80, 98)}{rng.choice('바사아자')}{1000 + vehicle * 37 % 9000}"
            state = ("AVAILABLE", True) if vehicle % 25 else ("OUT_OF_SERVICE", False)
            row = (vehicle, f"V{vehicle:03}", plate, kind, *state, *RANGES[kind])
            self._sql("INSERT INTO vehicles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, stamp(start), stamp(start)))
        for kind in ("order", "plan", "workshop"):
            self._later(kind, start)
        self._later("temperature", (now - TEMPERATURES_KEPT).replace(second=0, microsecond=0))
        self._later("report", now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
        if self.settings.backlog_every:
            self._later("dock", start + timedelta(hours=self.settings.backlog_every))

    def _run_until(self, now: datetime) -> None:
        due = "SELECT rowid, due, kind, id FROM demo_events WHERE due <= ? ORDER BY due, rowid LIMIT 1"
        while event := self._sql(due, (stamp(now),)).fetchone():
            rowid, text, kind, subject = event
            self._sql("DELETE FROM demo_events WHERE rowid = ?", (rowid,))
            self._handlers[kind](moment(text), subject, self._dice(kind, subject, text))

    def _dice(self, *what: object) -> random.Random:
        return random.Random(f"{self.settings.seed}:{what}")  # noqa: S311 - a game, no secret

    def _later(self, kind: str, due: datetime, subject: int = 0) -> None:
        self._sql("INSERT INTO demo_events VALUES (?, ?, ?)", (stamp(due), kind, subject))

    def _again(self, kind: str, due: datetime) -> None:
        self._sql("DELETE FROM demo_events WHERE kind = ?", (kind,))
        self._later(kind, due)

    def _after(self, **length: float) -> timedelta:
        return timedelta(**length) / self.settings.speed

    def _count(self, what: str, *values: str) -> int:
        (count,) = self._sql(f"SELECT count(*) FROM {what}", values).fetchone()  # noqa: S608 - our own words
        return int(count)

    # What happens

    def _order(self, at: datetime, _: int, rng: random.Random) -> None:
        rate = self.settings.orders_per_hour * RHYTHM[at.astimezone(SEOUL).hour]
        self._later("order", at + self._after(hours=rng.expovariate(rate)))
        (order,) = self._sql("SELECT coalesce(max(id), 0) + 1 FROM orders").fetchone()
        day = at.astimezone(SEOUL).date()
        zone = rng.choices(ZONES, ZONE_WEIGHTS)[0]
        row = (order, f"ORD-{day:%Y%m%d}-{order:06}", f"{day}", zone, "PENDING", rng.choice((0, 0, 0, 1, 2)))
        self._sql("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, stamp(at), stamp(at)))
        if rng.random() < 0.03:
            self._later("cancel", at + self._after(minutes=rng.uniform(2, 25)), order)

    def _plan(self, at: datetime, _: int, rng: random.Random) -> None:
        """The dispatcher's round: orders of one zone share a vehicle; a single young one waits for company."""
        self._again("plan", at + self._after(minutes=rng.uniform(25, 35)))
        for zone in ZONES:
            orders = self._sql(
                "SELECT id, created_at FROM orders WHERE status = 'PENDING' AND temperature_zone = ?"
                " AND id NOT IN (SELECT id FROM demo_events WHERE kind = 'release')"
                " AND NOT EXISTS (SELECT 1 FROM demo_events WHERE kind = 'reopen' AND id = ?)"
                " ORDER BY priority DESC, id",
                (zone, ZONES.index(zone)),
            ).fetchall()
            for first in range(0, len(orders), LOAD):
                group = orders[first : first + LOAD]
                if len(group) > 1 or moment(group[0][1]) < at - self._after(minutes=30):
                    self._dispatch(at, [order for order, _ in group], zone, rng)

    def _dispatch(self, at: datetime, orders: list[int], zone: str, rng: random.Random) -> None:
        free = next(filter(None, map(self._idle, CARRIERS[zone])), None)
        if free is None:
            return
        vehicle = rng.choice(free)
        kilometres = round(rng.triangular(110, 520, 260), 1)
        depart = at + self._after(minutes=rng.uniform(20, 60))
        road = self._after(hours=kilometres / 60 + 0.4 * len(orders))
        back = depart + road
        if rng.random() < 0.02:
            self._insert_dispatch(at, at, vehicle, rng, "CANCELLED")  # a first plan that was thrown away
        # A night run carries the date of its delivery: on the way after midnight it is not late.
        dispatch = self._insert_dispatch(at, back + self._after(minutes=30), vehicle, rng, "DRAFT")
        self._later("confirm", at + (depart - at) * rng.uniform(0.1, 0.4), dispatch)
        self._later("depart", depart, dispatch)
        self._later("return", back, dispatch)
        self._sql("UPDATE dispatches SET total_distance_km = ? WHERE id = ?", (kilometres, dispatch))
        for stop, order in enumerate(orders, 1):
            self._move_order(at, order, "PENDING", "ASSIGNED")
            self._later("transit", depart, order)
            self._later("deliver", depart + road * (0.35 + 0.5 * stop / len(orders)), order)

    def _insert_dispatch(self, at: datetime, until: datetime, vehicle: int, rng: random.Random, status: str) -> int:
        (dispatch,) = self._sql("SELECT coalesce(max(id), 0) + 1 FROM dispatches").fetchone()
        day = until.astimezone(SEOUL).date()
        row = (dispatch, f"DSP-{day:%Y%m%d}-{dispatch:06}", f"{day}", vehicle, rng.randint(1, 60), None, status)
        self._sql("INSERT INTO dispatches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, stamp(at), stamp(at)))
        return int(dispatch)

    def _move_order(self, at: datetime, order: int, before: str, after: str) -> None:
        update = "UPDATE orders SET status = ?, updated_at = ? WHERE id = ? AND status = ?"
        self._sql(update, (after, stamp(at), order, before))

    def _move_dispatch(self, at: datetime, dispatch: int, status: str, vehicle: str | None = None) -> None:
        self._sql("UPDATE dispatches SET status = ?, updated_at = ? WHERE id = ?", (status, stamp(at), dispatch))
        if vehicle:
            (number,) = self._sql("SELECT vehicle_id FROM dispatches WHERE id = ?", (dispatch,)).fetchone()
            self._move_vehicle(at, number, vehicle)

    def _move_vehicle(self, at: datetime, vehicle: int, status: str) -> None:
        self._sql("UPDATE vehicles SET status = ?, updated_at = ? WHERE id = ?", (status, stamp(at), vehicle))

    def _idle(self, kind: str) -> list[int]:
        rows = self._sql(
            "SELECT id FROM vehicles WHERE status = 'AVAILABLE' AND vehicle_type = ? AND id NOT IN"
            " (SELECT vehicle_id FROM dispatches WHERE status IN ('DRAFT', 'CONFIRMED')) ORDER BY id",
            (kind,),
        )
        return [vehicle for (vehicle,) in rows]

    def _workshop(self, at: datetime, _: int, rng: random.Random) -> None:
        self._later("workshop", at + self._after(hours=rng.uniform(4, 12)))
        if idle := [vehicle for kind in ZONES for vehicle in self._idle(kind)]:
            vehicle = rng.choice(idle)
            why = rng.choices(("MAINTENANCE", "EMERGENCY_MAINTENANCE", "BREAKDOWN"), (6, 1, 2))[0]
            self._move_vehicle(at, vehicle, why)
            self._later("repaired", at + self._after(hours=rng.uniform(5, 30)), vehicle)

    def _temperature(self, at: datetime, _: int, rng: random.Random) -> None:
        self._later("temperature", at + timedelta(minutes=1))
        rows = []
        for vehicle, plate, low, high in self._sql(
            "SELECT id, plate_number, min_temp_celsius, max_temp_celsius FROM vehicles WHERE status = 'IN_USE'"
            " AND min_temp_celsius IS NOT NULL ORDER BY id"
        ):
            # Now and then a door stands open for a quarter of an hour; the front compartment feels it less.
            hour = self._dice("door", vehicle, f"{at:%Y%m%d%H}")
            opened = hour.uniform(0, 44) if hour.random() < 0.04 else 60
            warm = 6.0 if opened <= at.minute < opened + 15 else 0.0
            front, rear = (low + (high - low) * 0.5 + rng.gauss(0, (high - low) / 14) for _ in range(2))
            readings = (round(front + warm / 3, 1), round(rear + warm, 1) if vehicle % 12 else None)
            rows.append((vehicle, f"TID{vehicle:05}", plate, *readings, stamp(at)))
        self._connection.executemany("INSERT INTO vehicle_temperature_logs VALUES (NULL, ?, ?, ?, ?, ?, ?)", rows)
        self._sql("DELETE FROM vehicle_temperature_logs WHERE created_at < ?", (stamp(at - TEMPERATURES_KEPT),))

    def _dock(self, at: datetime, _: int, rng: random.Random) -> None:
        """A backlog that comes by itself: one zone's loading dock is out of order for hours."""
        shut = timedelta(hours=rng.uniform(5, 6))
        pause = timedelta(hours=self.settings.backlog_every * rng.uniform(0.8, 1.2))
        following = at + pause
        if self._calm and following > self._calm - timedelta(hours=8):
            following = self._calm + pause
        self._later("dock", following)
        self._later("reopen", at + shut, ZONES.index("FROZEN"))
        self._say("냉동 도크 고장: 냉동 주문이 쌓입니다 (frozen dock down until about %s)", f"{_local(at + shut)}")

    def _reopen(self, at: datetime, zone: int, _: random.Random) -> None:
        self._again("plan", at)
        self._say("%s 도크 복구: 밀린 주문을 배차합니다 (dock is back, clearing the backlog)", ZONE_NAMES[ZONES[zone]])

    def _report(self, at: datetime, _: int, __: random.Random) -> None:
        self._later("report", at + timedelta(hours=1))
        self._sql("DELETE FROM orders WHERE created_at < ?", (stamp(at - ROWS_KEPT),))
        self._sql("DELETE FROM dispatches WHERE created_at < ?", (stamp(at - ROWS_KEPT),))
        hour = stamp(at - timedelta(hours=1))
        self._say(
            "지난 한 시간: 주문 %d건, 배송 %d건, 2시간 넘게 대기 %d건, 운행 %d대"
            " (last hour: orders, delivered, waiting over 2 h, vehicles out)",
            self._count("orders WHERE created_at >= ?", hour),
            self._count("orders WHERE status = 'DELIVERED' AND updated_at >= ?", hour),
            self.waiting(at),
            self._count("vehicles WHERE status = 'IN_USE'"),
        )

    def _say(self, message: str, *values: object) -> None:
        if not self._calm:
            log.info(message, *values)


def _local(time: datetime) -> str:
    return f"{time.astimezone(SEOUL):%H:%M}"


# The commands


def run(path: Path, settings: Settings) -> None:
    """Live until SIGTERM or SIGINT."""
    stop = threading.Event()
    for end in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end, lambda *_: stop.set())
    with closing(connect(path, create=True)) as connection:
        company = Company(connection, settings)
        company.open(datetime.now(UTC))
        log.info("회사가 문을 열었습니다: %s (the company is open)", path)
        while not stop.wait(1):
            company.step(datetime.now(UTC))
    log.info("회사가 문을 닫았습니다 (closed)")


def incident(path: Path, orders: int, minutes: float) -> None:
    """Make a backlog and say what to watch for."""
    now = datetime.now(UTC)
    with closing(connect(path)) as connection:
        company = Company(connection)
        alive = company.alive(now)
        made = company.incident(now, orders, timedelta(minutes=minutes))
        waiting = company.waiting(now)
    print(f"주문 {made}건이 배차 대기로 돌아갔습니다. 2시간 넘게 기다리는 주문은 이제 {waiting}건입니다.")
    if made < orders:
        print(f"({orders}건을 청했지만, 두 시간 전에 들어온 주문이 그만큼 없습니다.)")
    if waiting > 10:
        print("2분 안에 '배차 대기 주문 많음' 경고가 메일과 Slack으로 갑니다. 알림 시험장 화면을 보세요.")
    else:
        print("경고는 11건부터 나갑니다: --orders 를 늘려 보세요.")
    if alive:
        cleared = _local(now + timedelta(minutes=minutes))
        print(f"배차 담당자가 {minutes:g}분 뒤({cleared})에 모두 배차하고, 이어서 해결 알림이 갑니다.")
    else:
        print("회사가 돌고 있지 않아 그대로 남습니다: `run`으로 열거나 `resolve`로 배차하세요.")


def resolve(path: Path) -> None:
    """Clear the backlog now."""
    with closing(connect(path)) as connection:
        before, after = Company(connection).resolve(datetime.now(UTC))
    print(f"2시간 넘게 기다리던 주문 {before}건 가운데 {before - after}건을 배차했습니다. 남은 주문은 {after}건입니다.")
    if before > 10 >= after:
        print("경고가 나갔다면 2분 안에 해결 알림이 메일과 Slack으로 갑니다.")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.company", description="A demo dispatch company.")
    commands = parser.add_subparsers(dest="command", required=True)
    live = commands.add_parser("run", help="live, until SIGTERM or SIGINT")
    back = commands.add_parser("incident", help="put orders back to PENDING, more than two hours old")
    done = commands.add_parser("resolve", help="dispatch everything that waits, now")
    for command in (live, back, done):
        command.add_argument("--database", type=Path, required=True, metavar="PATH", help="its SQLite file")
    live.add_argument("--seed", type=int, default=Settings.seed, help="same seed and clock, same rows")
    live.add_argument("--orders-per-hour", type=_positive, default=Settings.orders_per_hour, help="the day's mean")
    live.add_argument(
        "--speed", type=_positive, default=Settings.speed, help="orders come and go so many times as fast"
    )
    live.add_argument("--vehicles", type=int, default=Settings.vehicles, help="of a new company")
    live.add_argument("--backlog-every", type=float, default=Settings.backlog_every, help="hours; 0: never by itself")
    back.add_argument("--orders", type=int, default=14)
    back.add_argument("--minutes", type=_positive, default=6, help="for so long the dispatcher does not see them")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s company: %(message)s", datefmt="%H:%M:%S")
    found = _options(arguments)
    try:
        if found.command == "run":
            chosen = Settings(found.seed, found.orders_per_hour, found.speed, found.vehicles, found.backlog_every)
            run(found.database, chosen)
        elif found.command == "incident":
            incident(found.database, found.orders, found.minutes)
        else:
            resolve(found.database)
    except (DemoError, sqlite3.OperationalError) as error:
        print(f"company: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
