"""Levels, risk, pace and the life of memory alerts, from made-up numbers."""

import msgspec
import pytest

from trainbus.bus.events import Gpu, Memory, Pressure, Process, System
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.incidents import judge
from trainbus.plugins.memory.levels import Level, next_level, risk, used_percent
from trainbus.plugins.memory.pace import next_interval

LEVELS = (Level(70, "warning"), Level(85, "critical"))


def host(percent, **fields):
    return System(host="h", memory=Memory(total=1_000, used=int(percent * 10), available=1_000 - int(percent * 10)), **fields)


def said(feed, config=None):
    """The alerts of a series of looks, one nanosecond apart."""
    state, alerts = {}, []
    for number, event in enumerate(feed):
        event.time = number
        alerts += judge(event, config or MemoryConfig(), state)
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
    level, reason = risk(host(percent).memory, None, 70, 85)
    assert level == expected
    assert f"{percent} %" in reason


def test_a_machine_whose_tasks_all_wait_for_memory_is_at_risk_whatever_is_free():
    """Pressure comes before the kill."""
    memory = host(20).memory
    assert risk(memory, Pressure(full=50.0), 70, 85)[0] == "high"
    assert risk(memory, Pressure(full=12.0), 70, 85)[0] == "medium"
    assert risk(memory, Pressure(full=1.0), 70, 85)[0] == "low"


def test_where_nothing_can_be_read_no_risk_is_claimed():
    """Unknown is not low."""
    assert risk(None, None, 70, 85)[0] == ""
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
    assert (alert.rule, alert.severity, alert.id) == ("gpu_memory", "warning", "gpu_memory:h:gpu0:0")


def test_a_training_beyond_its_size_is_one_alert_an_excursion_and_its_end_clears_it():
    """Off by default."""
    feed = [System(host="h", processes=[Process(pid=7, run="r", rss=int(size * 1e9))]) for size in (39, 41, 42, 39.9, 41, 30, 41)]
    feed.append(System(host="h"))
    assert said(feed) == []
    alerts = said(feed, MemoryConfig(process_warning_bytes=40 * 10**9))
    assert [(alert.state, alert.run) for alert in alerts] == [("raised", "r"), ("cleared", "r")] * 2
    assert alerts[-1].message == "The process ended."


def test_the_pace_is_fast_while_memory_moves_and_calms_down_by_doubling():
    """Up or down: both are movement."""
    pace, path = 2.0, []
    for rate in (None, 0.1, 3.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        pace = next_interval(pace, rate, calm=2.0, fast=0.2)
        path.append(round(pace, 3))
    assert path == [2.0, 2.0, 0.2, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"host_warning": 90}, "host_warning 90 is above host_critical 85"),
        ({"host_warning": 0}, "host_warning"),
        ({"interval": 0.1}, "fast_interval 0.2 is longer than interval 0.1"),
        ({"gpu_critical": 95}, "gpu_critical"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(table, found):
    """Also levels in the wrong order."""
    with pytest.raises(msgspec.ValidationError, match=found):
        msgspec.convert(table, MemoryConfig)
