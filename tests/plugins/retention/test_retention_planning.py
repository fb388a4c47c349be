"""Limits: what goes beyond the policies when room is demanded, in which order, and what stands in the way."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import DiskState, plan
from trainbus.plugins.retention.protection import metrics_of
from trainbus.plugins.retention.records import Record

SECOND = 1_000_000_000
LONG_AGO = 10**18


def record(step, *, run="r", size=10, **fields):
    return Record(f"{run}@{step}", run, step, step * SECOND, f"/out/{run}/checkpoint-{step}", size, **fields)


def config(**fields):
    return msgspec.convert({"keep_newest": 1, "keep_best": [], "min_age": 0} | fields, RetentionConfig)


def going(made):
    return [decision.record.id for decision in made.decisions if not decision.keep]


ALL = {"keep": [{"policy": "all"}]}


def test_a_total_of_bytes_takes_the_oldest_first_and_says_which_limit_took_it():
    """What the policies kept is named, too: it would have stayed."""
    made = plan([record(step) for step in range(1, 6)], config(max_bytes=25, **ALL), LONG_AGO)
    assert going(made) == ["r@1", "r@2", "r@3"]
    assert made.decisions[0].reason == "all checkpoints may take 25 bytes, and it is the next to go; all are kept"
    assert made.frees == 30


def test_what_no_policy_keeps_goes_before_what_policies_keep():
    """Their bytes count towards the limit."""
    settings = config(max_bytes=30, keep=[{"policy": "at", "steps": [1, 2]}])
    made = plan([record(step) for step in range(1, 6)], settings, LONG_AGO)
    assert going(made) == ["r@3", "r@4"]
    assert not any(decision.limit for decision in made.decisions)


def test_largest_first_is_another_order():
    """Fewer deletions for the same room."""
    records = [record(1), record(2, size=50), record(3), record(4)]
    assert going(plan(records, config(max_bytes=40, order="largest", **ALL), LONG_AGO)) == ["r@2"]


def test_a_limit_for_each_run_leaves_small_runs_alone():
    """Only the run that takes too much gives."""
    records = [record(step, run=run) for run, count in (("big", 5), ("small", 2)) for step in range(count)]
    assert going(plan(records, config(max_bytes_per_run=30, **ALL), LONG_AGO)) == ["big@0", "big@1"]


def test_across_runs_the_best_of_all_is_kept_though_its_run_would_not():
    """A policy over all runs together."""
    records = [record(1, run="a", metrics={"loss": 2.0}), record(2, run="a"), record(1, run="b", metrics={"loss": 1.0}), record(2, run="b")]
    made = plan(records, config(keep_across=[{"policy": "best", "metric": "loss"}]), LONG_AGO)
    assert going(made) == ["a@1"]
    assert made.decisions[2].reason == "across runs: best by loss (1)"


@pytest.mark.parametrize(
    ("floor", "free", "trash", "expected", "emptied"),
    [
        ({"min_free_bytes": 50}, 60, 30, [], None),
        ({"min_free_bytes": 50}, 30, 30, [], 20),
        ({"min_free_bytes": 50}, 30, 5, ["r@1", "r@2"], 20),
        ({"min_free_percent": 10}, 85, 0, ["r@1", "r@2"], 15),
        ({"min_free_percent": 10, "min_free_bytes": 90}, 85, 0, ["r@1", "r@2"], 15),
    ],
)
def test_the_disk_floor_empties_the_trash_first_and_then_takes_checkpoints(floor, free, trash, expected, emptied):
    """Bytes or a part of the disk, whichever is more; what is deleted for it must be emptied at once."""
    disk = DiskState(name="/out", total=1000, free=free, trash=trash, directories=frozenset({"/out/r"}))
    made = plan([record(step) for step in range(1, 6)], config(**floor, **ALL), LONG_AGO, disks=[disk])
    assert going(made) == expected
    assert made.empty.get("/out") == emptied
    assert made.unmet == []


def test_what_no_policy_keeps_counts_once_towards_the_disk_floor():
    """What goes anyway frees its own bytes; a limit takes as much more as is missing then, and no less."""
    settings = config(min_free_bytes=30, keep=[{"policy": "at", "steps": [1, 2]}])
    disk = DiskState(name="d", total=1_000, free=0, directories=frozenset({"/out/r"}))
    made = plan([record(step) for step in range(1, 6)], settings, LONG_AGO, disks=[disk])
    assert going(made) == ["r@1", "r@3", "r@4"]
    assert (made.empty, made.unmet) == ({"d": 30}, [])


def test_checkpoints_of_another_disk_are_not_taken_for_this_one():
    """They would free nothing on it."""
    disk = DiskState(name="/small", total=100, free=0, directories=frozenset({"/small/r"}))
    made = plan([record(step) for step in range(1, 6)], config(min_free_bytes=10, **ALL), LONG_AGO, disks=[disk])
    assert going(made) == []
    assert made.unmet[0].missing == 10


def test_what_stands_in_the_way_of_a_limit_is_said_with_its_bytes():
    """So that a person knows what to change."""
    settings = config(max_bytes=5, min_evaluations=1)
    made = plan([record(1), record(2, evaluations=[7])], settings, LONG_AGO, {"r@2": ["pinned by ann"]})
    assert going(made) == []
    (unmet,) = made.unmet
    assert unmet.missing == 15
    assert unmet.in_the_way == {"0 of 1 evaluations have finished": 10, "pinned by ann": 10, "newest complete checkpoint": 10}


def test_thinning_comes_before_deleting_where_it_is_allowed():
    """Optimizer states of old ones go; the newest keep theirs."""
    records = [record(step, disposable=6) for step in range(1, 6)]
    settings = config(max_bytes=38, thin="limits", thin_keep_newest=2, **ALL)
    made = plan(records, settings, LONG_AGO)
    assert [decision.action for decision in made.decisions] == ["thin", "thin", "keep", "keep", "keep"]
    assert made.frees == 12
    tighter = plan(records, config(max_bytes=30, thin="limits", thin_keep_newest=2, **ALL), LONG_AGO)
    assert [decision.action for decision in tighter.decisions] == ["delete", "thin", "thin", "keep", "keep"]


def test_always_thinning_spares_the_newest_and_what_is_marked():
    """A pinned, leased or resumed one stays as it is; the best by a metric is good for its weights."""
    records = [record(step, disposable=6, metrics={"loss": float(step)}) for step in range(1, 6)]
    settings = config(thin="always", thin_keep_newest=2, keep_best=[{"metric": "loss"}], **ALL)
    made = plan(records, settings, LONG_AGO, {"r@2": ["pinned by ann"]})
    assert [decision.action for decision in made.decisions] == ["thin", "keep", "thin", "keep", "keep"]


def test_a_damaged_checkpoint_counts_for_no_policy_and_is_left_for_a_person():
    """The newest whole one is another."""
    records = [record(1, verified=5), record(2), record(3, faults="model.safetensors is missing")]
    made = plan(records, config(), LONG_AGO)
    assert going(made) == []
    assert [decision.reasons[0] for decision in made.decisions] == [
        "last verified whole copy",
        "newest complete checkpoint",
        "it is damaged, which is for a person to look at: model.safetensors is missing",
    ]


def test_too_few_evaluations_keep_a_checkpoint_whatever_the_limits():
    """Each evaluation counts once."""
    made = plan([record(1, evaluations=[4]), record(2, evaluations=[5, 6]), record(3)], config(min_evaluations=2, max_bytes=1), LONG_AGO)
    assert going(made) == ["r@2"]


def test_173_checkpoints_free_the_bytes_that_they_took():
    """Three tiers of the superseded system's case with sizes that differ."""
    tiers = {"policy": "tiers", "tiers": [{"count": 20}, {"count": 20, "every": 200}, {"every": 1000}]}
    records = [record(step, size=2_700_000_000 + step) for step in range(100, 17_301, 100)]
    made = plan(records, config(keep=[tiers]), LONG_AGO)
    stays = [decision for decision in made.decisions if decision.keep]
    assert len(stays) == 51
    assert all(decision.reason for decision in made.decisions)
    assert made.frees == sum(each.bytes for each in records) - sum(decision.record.bytes for decision in stays)
    assert made.frees == sum(each.bytes for each in records if f"r@{each.step}" in going(made))


sizes = st.integers(0, 100)
metric_values = st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.floats(-10, 10), max_size=2)
histories = st.lists(
    st.builds(
        Record,
        id=st.just(""),
        run=st.sampled_from(["a", "b"]),
        step=st.integers(0, 300),
        time=st.integers(0, 1_000).map(lambda seconds: seconds * SECOND),
        path=st.just(""),
        bytes=sizes,
        metrics=metric_values,
        evaluations=st.lists(st.integers(0, 5), unique=True, max_size=3),
        verified=st.sampled_from([0, 5]),
        faults=st.sampled_from(["", "", "", "torn"]),
    ),
    unique_by=lambda each: (each.run, each.step),
    min_size=1,
    max_size=25,
)
simple = st.one_of(
    st.fixed_dictionaries(
        {"policy": st.just("steps"), "every": st.integers(1, 90), "take": st.sampled_from(["first", "closest", "exact", "spaced"])}
    ),
    st.fixed_dictionaries({"policy": st.just("newest"), "count": st.integers(1, 6)}),
    st.fixed_dictionaries({"policy": st.just("interval"), "seconds": st.floats(1, 200)}),
    st.fixed_dictionaries({"policy": st.just("newer"), "seconds": st.floats(1, 500)}),
    st.fixed_dictionaries({"policy": st.just("best"), "metric": st.sampled_from(["loss", "accuracy"]), "count": st.integers(1, 3)}),
    st.just({"policy": "all"}),
)
policies = st.recursive(
    simple,
    lambda inner: st.fixed_dictionaries(
        {"policy": st.sampled_from(["any_of", "all_of"]), "policies": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=4,
)
settings = st.fixed_dictionaries(
    {
        "keep_newest": st.integers(1, 4),
        "keep_best": st.just([{"metric": "loss"}, {"metric": "accuracy", "direction": "max", "count": 2}]),
        "keep": st.lists(policies, max_size=3),
        "keep_across": st.lists(policies, max_size=1),
        "min_age": st.integers(0, 300),
        "min_evaluations": st.integers(0, 2),
        "max_bytes": st.integers(0, 800),
        "max_bytes_per_run": st.integers(0, 800),
        "min_free_bytes": st.integers(0, 500),
        "order": st.sampled_from(["oldest", "largest"]),
        "thin": st.sampled_from(["never", "limits", "always"]),
    }
)


@examples(deadline=None)
@given(histories, settings, st.integers(0, 2_000), st.integers(0, 600), st.integers(0, 300), st.data())
def test_the_protected_are_never_deleted_and_limits_hold_whenever_they_allow(rows, table, now, free, trash, data):
    """For any history, policies, marks and disk; otherwise the plan says what stands in the way."""
    for row in rows:
        row.id, row.path = f"{row.run}@{row.step}", f"/out/{row.run}/{row.step}"
        row.disposable = row.bytes // 2
    chosen = msgspec.convert(table, RetentionConfig)
    marked = data.draw(st.sets(st.sampled_from([each.id for each in rows]), max_size=3))
    disk = DiskState(name="d", total=1_000, free=free, trash=trash, directories=frozenset({"/out/a", "/out/b"}))
    made = plan(rows, chosen, now * SECOND, {each: ["marked"] for each in marked}, [disk])
    stays = {decision.record.id for decision in made.decisions if decision.keep}

    assert len(made.decisions) == len(rows)
    assert all(decision.reasons for decision in made.decisions)
    assert marked <= stays
    assert not chosen.min_age or {each.id for each in rows if now - each.time / SECOND < chosen.min_age} <= stays
    assert {each.id for each in rows if len(each.evaluations) < chosen.min_evaluations or each.faults} <= stays
    for run in {each.run for each in rows}:
        whole = sorted((each for each in rows if each.run == run and not each.faults), key=lambda each: each.step)
        if whole:
            assert whole[-1].id in stays
        for policy in metrics_of(chosen):
            sign = 1 if policy.direction == "min" else -1
            scores = {each.id: sign * each.metrics[policy.metric] for each in whole if policy.metric in each.metrics}
            assert not scores or any(score == min(scores.values()) and each in stays for each, score in scores.items())
        verified = [each.id for each in whole if each.verified]
        assert not verified or verified[-1] in stays

    def left(decisions):
        return sum(decision.record.bytes - decision.frees for decision in decisions)

    def only_protected(decisions):
        return all(decision.protected for decision in decisions if decision.keep)

    excuses = " ".join(unmet.limit for unmet in made.unmet)
    if chosen.max_bytes and left(made.decisions) > chosen.max_bytes:
        assert only_protected(made.decisions)
        assert "all checkpoints" in excuses
    for run in {each.run for each in rows}:
        of_run = [decision for decision in made.decisions if decision.record.run == run]
        if chosen.max_bytes_per_run and left(of_run) > chosen.max_bytes_per_run:
            assert only_protected(of_run)
            assert f"{run} may take" in excuses
    freed = sum(each.bytes for each in rows) - left(made.decisions)
    if free < chosen.min_free_bytes:
        reached = free + min(made.empty["d"], trash + freed)
        assert reached >= chosen.min_free_bytes or (only_protected(made.decisions) and "bytes free" in excuses)
