"""What each policy keeps; the cases that Orbax tests its own policies with give the same answers here."""

from datetime import UTC, datetime

import msgspec
import pytest

from trainbus.plugins.retention.keeping import kept
from trainbus.plugins.retention.policies import AnyPolicy, Best, Newest, Tier, Tiers
from trainbus.plugins.retention.records import Record

SECOND = 1_000_000_000
DAY = 86_400
MIXED = [0, 1, 2, 4, 5, 8, 9, 13, 14, 25]
FIVE = [0, 1, 2, 3, 4]


def record(step, *, time=None, **metrics):
    return Record(f"r@{step}", "r", step, (step if time is None else time) * SECOND, f"/out/checkpoint-{step}", metrics=metrics)


def steps_kept(table, records, now=0):
    policy = msgspec.convert(table, AnyPolicy)
    reasons = kept(policy, records, int(now * SECOND))
    assert all(reasons.values())
    return [each.step for each in records if each.id in reasons]


@pytest.mark.parametrize(
    ("table", "steps", "expected"),
    [
        ({"policy": "all"}, FIVE, FIVE),
        ({"policy": "newest", "count": 3}, FIVE, [2, 3, 4]),
        ({"policy": "newest", "count": 15}, FIVE, FIVE),
        ({"policy": "interval", "seconds": 1}, FIVE, FIVE),
        ({"policy": "interval", "seconds": 3}, FIVE, [0, 3]),
        ({"policy": "interval", "seconds": 6}, FIVE, [0]),
        ({"policy": "steps", "every": 3, "take": "exact"}, [0, 1, 2, 4], [0]),
        ({"policy": "steps", "every": 3, "take": "spaced"}, [0, 1, 2, 4], [0, 4]),
        ({"policy": "steps", "every": 3, "take": "spaced"}, MIXED, [0, 4, 8, 13, 25]),
        ({"policy": "steps", "every": 1, "take": "exact", "count": 3}, FIVE, [2, 3, 4]),
        ({"policy": "steps", "every": 3, "take": "spaced", "count": 3}, MIXED, [8, 13, 25]),
        ({"policy": "steps", "every": 1, "take": "closest"}, FIVE, FIVE),
        ({"policy": "steps", "every": 3, "take": "closest"}, [0, 1, 2, 4], [0, 4]),
        ({"policy": "steps", "every": 3, "take": "closest"}, MIXED, [0, 4, 5, 9, 13, 14, 25]),
        ({"policy": "steps", "every": 3, "take": "closest", "count": 3}, MIXED, [13, 14, 25]),
        ({"policy": "at", "steps": [0, 2, 3]}, FIVE, [0, 2, 3]),
        ({"policy": "at", "steps": [14, 13]}, FIVE, []),
    ],
)
def test_a_policy_keeps_what_orbax_keeps_in_the_same_case(table, steps, expected):
    """LatestN, EveryNSeconds, EveryNSteps (exact and not), EveryNStepsClosest, CustomSteps, PreserveAll."""
    assert steps_kept(table, [record(step) for step in steps]) == expected


@pytest.mark.parametrize(
    ("count", "losses", "unmeasured", "expected"),
    [
        (1, [7, None, 4, None, 5], True, [1, 2, 3]),
        (4, [5, None, 4, None, 7], True, [0, 1, 2, 3, 4]),
        (4, [5, None, 4, None, 7], False, [0, 2, 4]),
    ],
)
def test_the_best_are_those_that_orbax_calls_best(count, losses, unmeasured, expected):
    """BestN with and without keep_checkpoints_without_metrics."""
    records = [record(step, **({} if loss is None else {"loss": loss})) for step, loss in enumerate(losses)]
    assert steps_kept({"policy": "best", "metric": "loss", "count": count, "unmeasured": unmeasured}, records) == expected


@pytest.mark.parametrize(("hours", "expected"), [(24, [2, 3]), (28, [1, 2, 3]), (5, []), (100, [0, 1, 2, 3])])
def test_newer_than_a_duration(hours, expected):
    """LatestDuration."""
    records = [record(step, time=(200 - age) * 3600) for step, age in enumerate((30, 25, 23, 10))]
    assert steps_kept({"policy": "newer", "seconds": hours * 3600}, records, now=200 * 3600) == expected


def test_any_of_and_all_of_nest_to_any_depth_and_join_the_reasons():
    """AnyPreservationPolicy, and its opposite, which Orbax has not."""
    policy = {
        "policy": "any_of",
        "policies": [
            {"policy": "newest", "count": 1},
            {"policy": "all_of", "policies": [{"policy": "steps", "every": 2, "take": "exact"}, {"policy": "at", "steps": [1, 2]}]},
        ],
    }
    records = [record(step) for step in FIVE]
    assert steps_kept(policy, records) == [2, 4]
    reasons = kept(msgspec.convert(policy, AnyPolicy), records, 0)
    assert reasons == {"r@4": "number 1 of the newest 1", "r@2": "its step is a multiple of 2 and step 2 is named"}


THREE_TIERS = Tiers(tiers=(Tier(count=20), Tier(count=20, every=200), Tier(every=1000)))


def test_173_checkpoints_in_three_tiers():
    """The case of the superseded system: newest 20 all, 20 each 200, then each 1000; every one with its reason."""
    records = [record(step) for step in range(100, 17_301, 100)]
    assert len(records) == 173
    reasons = kept(THREE_TIERS, records, 0)
    newest = list(range(15_400, 17_301, 100))
    middle = list(range(11_400, 15_201, 200))
    old = list(range(1_000, 11_001, 1_000))
    assert (len(newest), len(middle), len(old)) == (20, 20, 11)
    assert [each.step for each in records if each.id in reasons] == [*old, *middle, *newest]
    assert {reasons[f"r@{step}"] for step in newest} == {"tier 1: all of it"}
    assert {reasons[f"r@{step}"] for step in middle} == {"tier 2: one every 200 steps"}
    assert {reasons[f"r@{step}"] for step in old} == {"tier 3: one every 1000 steps"}


def test_a_tier_can_also_thin_so_many_checkpoints_instead_of_keeping_so_many():
    """`of` counts what is looked at."""
    tiers = {"policy": "tiers", "tiers": [{"count": 20}, {"of": 20, "every": 200}, {"every": 1000}]}
    middle = [step for step in steps_kept(tiers, [record(step) for step in range(100, 17_301, 100)]) if 13_300 < step < 15_400]
    assert middle == list(range(13_400, 15_201, 200))


def test_tiers_are_right_when_steps_are_no_multiples_of_anything():
    """Of each 200 and each 1000 the first at or after it."""
    steps = list(range(37, 17_400, 93))
    found = steps_kept(msgspec.to_builtins(THREE_TIERS), [record(step) for step in steps])
    assert found[-20:] == steps[-20:]
    old = [step for step in found if step < 11_000]
    assert [step // 1000 for step in old] == list(range(1, 11))
    assert all(step - 93 < step // 1000 * 1000 for step in old)


def test_tiers_never_want_back_what_they_let_go():
    """Deleting after each new checkpoint ends with the same set as deleting once at the end."""
    kept_so_far = []
    for step in range(100, 17_301, 100):
        kept_so_far.append(record(step))
        reasons = kept(THREE_TIERS, kept_so_far, 0)
        kept_so_far = [each for each in kept_so_far if each.id in reasons]
    at_once = kept(THREE_TIERS, [record(step) for step in range(100, 17_301, 100)], 0)
    assert {each.id for each in kept_so_far} == set(at_once)


@pytest.mark.parametrize(
    ("each", "count", "expected"),
    [("hour", 0, [1, 2, 3, 4, 5, 6]), ("day", 0, [2, 4, 5, 6]), ("week", 0, [4, 5, 6]), ("month", 0, [5, 6]), ("day", 2, [5, 6])],
)
def test_one_an_hour_day_week_or_month_is_the_newest_of_it(each, count, expected):
    """In UTC; 0 and 1 fall into one hour."""
    moments = [
        "2026-05-01T10:01",
        "2026-05-01T10:59",
        "2026-05-01T11:00",
        "2026-05-02T00:00",
        "2026-05-02T23:59",
        "2026-05-31T12:00",
        "2026-06-01T00:00",
    ]
    records = [record(step, time=int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())) for step, at in enumerate(moments)]
    assert steps_kept({"policy": "period", "each": each, "count": count}, records) == expected


def test_a_checkpoint_waits_for_a_metric_that_arrives_late_and_no_longer_than_told():
    """Then it counts as not measured."""
    records = [record(1, time=100), record(2, time=100, loss=1.0)]
    best = {"policy": "best", "metric": "loss", "wait": 60}
    assert steps_kept(best, records, now=159) == [1, 2]
    assert steps_kept(best, records, now=160) == [2]


def test_records_of_several_runs_can_be_judged_together():
    """Best of all runs."""
    records = [Record(f"{run}@1", run, 1, 0, f"/{run}", metrics={"loss": loss}) for run, loss in (("a", 2.0), ("b", 1.0))]
    assert set(kept(Best(metric="loss"), records, 0)) == {"b@1"}
    assert kept(Newest(count=1), [], 0) == {}
