"""The host's figures: what is counted, what is shown once, and what a dead mount costs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exporter.families import Family
from exporter.settings import DiskSettings, PathSettings
from exporter.sources.host import CPU_WINDOW_SECONDS, HostSource
from exporter.sources.mounts import Mount, Space, Spaces, measure, mounts, real
from tests.exporter.awkward import NOW
from tests.waiting import until

PROCFS = Path(__file__).parent / "procfs"
DISK = DiskSettings()


@pytest.fixture(autouse=True)
def psutil_reads_its_own_proc_again() -> Iterator[None]:
    yield
    psutil.PROCFS_PATH = "/proc"


def families(source: HostSource) -> dict[str, Family]:
    return {family.name: family for family in source.collect(NOW, 5)}


def cpu_line(busy: int, idle: int, iowait: int = 0) -> str:
    return f"cpu  {busy} 0 0 {idle} {iowait} 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    """A /proc of one's own to write into."""
    shutil.copytree(PROCFS, tmp_path / "proc")
    return tmp_path / "proc"


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_cpu_usage_is_the_busy_share_of_the_last_window_however_often_it_is_looked_at(procfs: Path) -> None:
    clock = Clock()
    source = HostSource(PathSettings(procfs=str(procfs)), DISK, measure=lambda _: None, monotonic=clock)

    def usage(busy: int, idle: int) -> float | None:
        (procfs / "stat").write_text(cpu_line(busy, idle))
        return families(source)["coldchain_host_cpu_usage_ratio"].value()

    assert usage(0, 0) is None  # nothing to compare with yet
    clock.now += 5
    assert usage(500, 0) == 1.0
    clock.now += 5
    assert usage(500, 500) == 0.5
    clock.now += 5
    assert usage(500, 1000) == pytest.approx(1 / 3)
    clock.now += 5  # the first reading is older than the window by now
    assert usage(500, 1500) == 0.0
    assert usage(500, 1500) == 0.0  # a second look at the same moment changes nothing
    clock.now += CPU_WINDOW_SECONDS
    assert usage(1250, 2250) == 0.5


def test_waiting_for_a_disk_is_not_busy_and_may_go_backwards(procfs: Path) -> None:
    clock = Clock()
    source = HostSource(PathSettings(procfs=str(procfs)), DISK, measure=lambda _: None, monotonic=clock)
    (procfs / "stat").write_text(cpu_line(100, 100, iowait=100))
    source.collect(NOW, 5)
    clock.now += 5
    (procfs / "stat").write_text(cpu_line(150, 150, iowait=200))
    assert families(source)["coldchain_host_cpu_usage_ratio"].value() == 0.25
    clock.now += 5
    (procfs / "stat").write_text(cpu_line(200, 200, iowait=50))
    assert families(source)["coldchain_host_cpu_usage_ratio"].value() == pytest.approx(2 / 3)


def test_memory_is_used_as_far_as_it_is_not_available() -> None:
    found = families(HostSource(PathSettings(procfs=str(PROCFS)), DISK, measure=lambda _: None))
    figures = [found[f"coldchain_host_memory_{name}"].value() for name in ("total_bytes", "used_bytes", "usage_ratio")]
    assert figures == [8_000_000 * 1024, 2_000_000 * 1024, 0.25]


def test_mounts_are_those_of_process_1_with_their_names_unescaped() -> None:
    found = mounts(PROCFS)
    assert len(found) == 13
    assert found[5] == Mount("254:1", "/data", "/srv/bound twice", "xfs")
    assert found[12].mountpoint == "/mnt/배차 자료"


def test_real_file_systems_are_shown_once_and_pseudo_ones_never() -> None:
    shown = real(mounts(PROCFS), DISK.exclude_mountpoints, DISK.exclude_types)
    assert [(mount.mountpoint, mount.device) for mount in shown] == [
        ("/", "254:0"),
        ("/mnt/hidden", "254:3"),  # the one mounted over the other
        ("/mnt/nas", "0:51"),
        ("/mnt/배차 자료", "254:4"),
        ("/srv", "254:1"),  # and not where it is bound again
    ]


def test_a_disk_for_containers_is_shown_and_what_they_mount_on_it_is_not() -> None:
    disk = Mount("254:5", "/", "/var/lib/docker", "ext4")
    below = Mount("254:6", "/", "/var/lib/docker/volumes/nfs/_data", "ext4")
    assert real([disk, below], DISK.exclude_mountpoints, DISK.exclude_types) == [disk]


def test_a_containers_own_root_is_shown_though_it_is_an_overlay() -> None:
    found = [Mount("0:100", "/", "/", "overlay"), Mount("0:101", "/", "/other", "overlay")]
    assert [mount.mountpoint for mount in real(found, DISK.exclude_mountpoints, DISK.exclude_types)] == ["/"]


def test_space_is_counted_as_df_counts_it() -> None:
    space = Space(size=1000, used=600, available=300)
    assert space.usage_ratio == pytest.approx(2 / 3)
    here = measure("/")
    assert here is not None
    figures = os.statvfs("/")
    assert here.size == figures.f_blocks * figures.f_frsize
    assert here.size >= here.used + here.available


def test_the_root_file_system_is_looked_at_below_rootfs() -> None:
    asked: list[str] = []

    def note(path: str) -> Space:
        asked.append(path)
        return Space(100, 50, 50)

    source = HostSource(PathSettings(procfs=str(PROCFS), rootfs="/host"), DISK, measure=note)
    shown = families(source)["coldchain_host_filesystem_size_bytes"].samples
    assert sorted(asked) == ["/host", "/host/mnt/hidden", "/host/mnt/nas", "/host/mnt/배차 자료", "/host/srv"]
    assert sorted(shown) == [("/",), ("/mnt/hidden",), ("/mnt/nas",), ("/mnt/배차 자료",), ("/srv",)]


def test_names_that_are_no_utf8_are_shown_escaped_and_spoil_no_scrape(procfs: Path) -> None:
    line = b"36 27 254:9 / /mnt/\xc7\xd1\xb1\xdb rw - ext4 /dev/vdb rw\n"  # a share that was named in EUC-KR
    (procfs / "1" / "mountinfo").write_bytes(line)
    device = b" wan\xff: 7 0 0 0 0 0 0 0 8 0 0 0 0 0 0 0\n"
    (procfs / "net" / "dev").write_bytes(b"Inter-|   Receive\n face |bytes\n" + device)
    asked: list[bytes] = []

    def note(path: str) -> Space:
        asked.append(os.fsencode(path))
        return Space(100, 50, 50)

    source = HostSource(PathSettings(procfs=str(procfs)), DISK, measure=note)
    found = families(source)
    assert asked == [b"/mnt/\xc7\xd1\xb1\xdb"]
    assert set(found["coldchain_host_filesystem_size_bytes"].samples) == {("/mnt/\\xc7ѱ\\xdb",)}
    assert set(found["coldchain_host_network_receive_bytes_total"].samples) == {(r"wan\xff",)}


def test_a_mount_that_hangs_costs_its_own_figures_and_is_not_asked_again_until_it_answers() -> None:
    answers = threading.Event()
    asked: list[str] = []

    def slow(path: str) -> Space:
        asked.append(path)
        if path == "/nas":
            assert answers.wait(20)
        return Space(100, 50, 50)

    spaces = Spaces(slow)
    assert set(spaces.measure(["/", "/nas"], patience=0.2)) == {"/"}
    assert set(spaces.measure(["/", "/nas"], patience=0.2)) == {"/"}
    assert spaces.hanging == {"/nas"}
    assert asked == ["/", "/nas", "/"]
    answers.set()
    until(lambda: "/nas" in spaces.measure(["/", "/nas"], patience=0.2), "the mount is asked again")
    assert spaces.hanging == frozenset()


def test_a_mount_that_fails_or_is_a_single_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("")
    assert Spaces().measure([str(tmp_path / "hosts"), str(tmp_path / "nowhere"), "/proc"], patience=5) == {}


@pytest.fixture
def dead_mount(tmp_path: Path) -> Iterator[Path]:
    """A file system whose server never answers, as a network mount whose network is gone."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    point = tmp_path / "dead"
    point.mkdir()
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"dead", os.fsencode(point), b"fuse", 0, options) != 0:
        error_number = ctypes.get_errno()
        os.close(fuse)
        pytest.skip(f"mounting is not allowed here: {os.strerror(error_number)}")
    try:
        yield point
    finally:
        libc.umount2(os.fsencode(point), 2)  # MNT_DETACH
        os.close(fuse)  # who waits for an answer gets an error


def test_figures_never_hang_on_a_dead_mount(dead_mount: Path) -> None:
    source = HostSource(PathSettings(), DISK)
    before = threading.active_count()
    sizes = families(source)["coldchain_host_filesystem_size_bytes"].samples
    assert ("/",) in sizes
    assert (str(dead_mount),) not in sizes
    assert source._spaces.hanging == {str(dead_mount)}
    for _ in range(3):
        assert ("/",) in families(source)["coldchain_host_filesystem_size_bytes"].samples
    assert threading.active_count() == before + 1  # the one that waits


def test_a_dead_mount_is_told_once_and_when_it_is_gone(dead_mount: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = HostSource(PathSettings(), DISK)
    source.collect(NOW, 5)
    source.collect(NOW, 5)
    assert capsys.readouterr().out.count("mount does not answer") == 1
    ctypes.CDLL(None).umount2(os.fsencode(dead_mount), 2)
    source.collect(NOW, 5)
    assert capsys.readouterr().out.count("mount answers again") == 1


def test_this_machine_has_figures() -> None:
    found = families(HostSource(PathSettings(), DISK))
    assert (found["coldchain_host_cpus"].value() or 0) >= 1
    assert found["coldchain_host_memory_total_bytes"].value() == psutil.virtual_memory().total
    with contextlib.suppress(KeyError):
        assert found["coldchain_host_network_receive_bytes_total"].samples[("lo",)] >= 0
