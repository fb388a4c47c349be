"""Levels, risk, pace and the life of memory alerts, from made-up numbers."""

import msgspec
import pytest

from trainbus.bus.events import Disk, Gpu, GpuProcess, Memory, MemoryGroup, Pressure, Process, System
from trainbus.plugins.memory.book import Book
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.gauges import judge_gauges
from trainbus.plugins.memory.levels import Level, Limit, limits, next_level, risk, used_percent
from trainbus.plugins.memory.pace import Pace

LEVELS = (Level(70, "warning"), Level(85, "critical"))


def host(percent, **fields):
    return System(host="h", memory=Memory(total=1_000, used=int(percent * 10), available=1_000 - int(percent * 10)), **fields)


def said(feed, config=None):
    """The alerts of a series of looks, one nanosecond apart."""
    book, alerts = Book({}), []
    for number, event in enumerate(feed):
        event.time = number
        judge_gauges(event, config or MemoryConfig(), book)
        alerts += book.take()
    return alerts


def test_a_level_is_reached_at_once_and_left_only_well_below_it():
    """A value that trembles around a threshold changes nothing."""
    level, path = 0, []
    for value in (69.9, 70, 69, 71, 66, 65, 64.9, 90, 81, 79.9, 50):
        level = next_level(LEVELS, level, value, 5.0)
        path.append(level)
    assert path == [0, 1, 1, 1, 1, 1, 0, 2, 2, 1, 0]


@pytest.mark.parametrize(("percent", "expected"), [(0, "low"), (69, "low"), (71, "medium"), (86, "high"), (100, "high")])
def test_the_risk_follows_from_host_memory(percent, expected):
    """71 is medium, 86 is high; the reason names the number."""
    level, reason = risk(host(percent), MemoryConfig())
    assert level == expected
    assert f"{percent} %" in reason


def test_a_machine_whose_tasks_all_wait_for_memory_is_at_risk_whatever_is_free():
    """Pressure comes before the kill."""
    assert risk(host(20, pressure=Pressure(full=50.0)), MemoryConfig())[0] == "high"
    assert risk(host(20, pressure=Pressure(full=12.0)), MemoryConfig())[0] == "medium"
    assert risk(host(20, pressure=Pressure(full=1.0)), MemoryConfig())[0] == "low"
    waiting = MemoryGroup(path="/g", pressure=Pressure(full=50.0))
    assert risk(host(20, groups=[waiting]), MemoryConfig())[0] == "high"


def test_a_full_container_is_at_risk_on_an_empty_machine():
    """The kernel kills at the limit that is reached first; one beyond the machine's memory limits nothing."""
    level, reason = risk(host(10, groups=[MemoryGroup(path="/pod", limit=100, used=90)]), MemoryConfig())
    assert level == "high"
    assert "90 % of the memory of the control group /pod" in reason
    assert risk(host(10, groups=[MemoryGroup(path="/pod", limit=2_000, used=1_900)]), MemoryConfig())[0] == "low"


def test_where_nothing_can_be_read_no_risk_is_claimed():
    """Unknown is not low."""
    assert risk(System(host="h"), MemoryConfig())[0] == ""
    assert used_percent(Memory(total=10, used=5)) is None


def test_an_excursion_of_host_memory_is_one_alert_through_its_levels():
    """Raised, updated and cleared under one id, in the run of the biggest training."""
    feed = [
        host(percent, processes=[Process(pid=1, run="r", rss=5), Process(pid=2, run="s", rss=1)])
        for percent in (50, 72, 71, 86, 90, 75, 60)
    ]
    alerts = said(feed)
    assert [(alert.state, alert.severity) for alert in alerts] == [
        ("raised", "warning"),
        ("updated", "critical"),
        ("updated", "warning"),
        ("cleared", "warning"),
    ]
    assert {(alert.id, alert.run, alert.rule) for alert in alerts} == {("host_memory:h:host:1", "r", "host_memory")}
    assert alerts[-1].evidence["peak"] == pytest.approx(90)


def test_an_alert_is_cleared_in_the_run_in_which_it_was_raised():
    """Although its training ended meanwhile."""
    alerts = said([host(90, processes=[Process(pid=1, run="r", rss=5)]), host(10)])
    assert [(alert.state, alert.run) for alert in alerts] == [("raised", "r"), ("cleared", "r")]


def test_each_gpu_has_an_alert_of_its_own_and_one_that_tells_nothing_has_none():
    """None is unknown, not zero."""
    gpus = [Gpu(index=0, memory_total=100, memory_used=95), Gpu(index=1, memory_total=100, memory_used=10), Gpu(index=2)]
    (alert,) = said([System(host="h", gpus=gpus), System(host="h", gpus=[Gpu(index=0)])])
    assert (alert.rule, alert.severity, alert.id) == ("gpu_memory", "critical", "gpu_memory:h:gpu0:0")


def test_a_training_beyond_its_size_is_one_alert_an_excursion_and_its_end_clears_it():
    """Off by default."""
    feed = [System(host="h", processes=[Process(pid=7, run="r", rss=int(size * 1e9))]) for size in (39, 41, 42, 39.9, 41, 30, 41)]
    feed.append(System(host="h"))
    assert said(feed) == []
    alerts = said(feed, MemoryConfig(process_warning_bytes=40 * 10**9))
    assert [(alert.state, alert.run) for alert in alerts] == [("raised", "r"), ("cleared", "r")] * 2
    assert alerts[-1].message == "The process ended."


def test_a_control_group_pressure_a_disk_and_open_files_have_alerts_of_their_own():
    """Each with the rule that names it; what is not known has none."""
    event = System(
        host="h",
        memory=Memory(total=1_000, available=900),
        groups=[MemoryGroup(path="/g", limit=100, used=90), MemoryGroup(path="/beyond", limit=5_000, used=4_900)],
        pressure=Pressure(full=45.0),
        disks=[Disk(path="/out", total=100, free=2, inodes=100, inodes_free=5), Disk(path="/btrfs", total=100, free=50)],
        processes=[Process(pid=3, run="r", files_percent=81.0)],
    )
    found = {(alert.rule, alert.severity) for alert in said([event])}
    assert found == {
        ("group_memory", "critical"),
        ("memory_pressure", "warning"),
        ("disk_space", "critical"),
        ("disk_inodes", "warning"),
        ("open_files", "warning"),
    }


def test_a_gpu_belongs_to_the_run_that_fills_it_and_its_fault_is_told_once():
    """Levels at 75 and 90 %; a second fault with another number is news."""
    holder = [GpuProcess(pid=1, run="small", memory=1), GpuProcess(pid=2, run="big", memory=90)]
    feed = [System(host="h", gpus=[Gpu(index=0, memory_total=100, memory_used=used, processes=holder, xid=xid)]) for used, xid in
            ((76, None), (91, None), (91, 31), (91, 31), (91, 79))]  # fmt: skip
    alerts = said(feed)
    assert [(alert.rule, alert.severity, alert.state, alert.run) for alert in alerts[:2]] == [
        ("gpu_memory", "warning", "raised", "big"),
        ("gpu_memory", "critical", "updated", "big"),
    ]
    assert [(alert.rule, alert.state, alert.evidence["value"]) for alert in alerts[2:]] == [
        ("gpu_fault", "raised", 31),
        ("gpu_fault", "updated", 79),
    ]


def test_free_swap_puts_the_end_off_but_makes_memory_no_less_full():
    """Percent are of memory, room counts swap."""
    event = host(90, swap=Memory(total=500, used=100))
    (limit,) = limits(event)
    assert (limit.key, limit.room) == ("host", 500)
    assert risk(event, MemoryConfig())[0] == "high"


def paces(used, step=1.0, **options):
    pace, now, found = Pace(2.0, 0.1), 0.0, []
    for value in used:
        found.append(pace.next([Limit("host", "memory", 10_000, value)], now, **options))
        now += step
    return [round(value, 2) for value in found]


def test_the_pace_follows_how_near_the_end_is_and_calms_down_by_doubling():
    """A hundred looks before the end at this rate, at most ten a second."""
    assert paces([1_000, 1_000, 1_010]) == [2.0, 2.0, 2.0]
    assert paces([1_000, 2_000, 3_000]) == [2.0, 0.1, 0.1]
    assert paces([5_000, 5_100, 5_100, 5_100, 5_100]) == [2.0, 0.49, 0.98, 1.96, 2.0]


def test_memory_that_swings_within_what_was_seen_is_calm():
    """Buffers come and go in each step; only a new height is movement."""
    assert paces([1_000, 5_000, 1_000, 5_000, 1_000, 5_000, 4_990, 5_000])[-1] == 2.0


def test_a_young_training_is_looked_at_every_second_step():
    """A leak of its first steps is seen in time; but not more than ten times a second."""
    assert paces([1_000], step_seconds=0.25) == [0.5]
    assert paces([1_000], step_seconds=0.001) == [0.1]
    assert paces([1_000], step_seconds=60.0) == [2.0]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"host_warning": 90}, "host_warning 90 is above host_critical 85"),
        ({"host_warning": 0}, "host_warning"),
        ({"interval": 0.05}, "fast_interval 0.1 is longer than interval 0.05"),
        ({"gpu_warning": 95}, "gpu_warning 95 is above gpu_critical 90"),
        ({"process_warning_bytes": 2, "process_critical_bytes": 1}, "process_warning_bytes 2 is above"),
        ({"actions": ["dance"]}, "actions"),
        ({"actions": ["save", "save"]}, "actions names one twice"),
        ({"leak": True}, "leak"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(table, found):
    """Also levels in the wrong order."""
    with pytest.raises(msgspec.ValidationError, match=found):
        msgspec.convert(table, MemoryConfig)
