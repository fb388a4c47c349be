"""Which checkpoints stay, and the reason that each is given."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from trainbus.bus.events import Checkpoint, Eval, RunStarted
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import plan
from trainbus.plugins.retention.policies import BestConfig
from trainbus.plugins.retention.records import Book, Record

SECOND = 1_000_000_000


def record(step, **fields):
    return Record(id=f"r@{step}", run="r", path=f"/out/checkpoint-{step}", **({"step": step, "time": step * SECOND} | fields))


def config(**fields):
    return msgspec.convert({"keep_newest": 1, "keep_best": [], "min_age": 0} | fields, RetentionConfig)


def kept(records, settings, now=10**18, marks=None):
    return [decision.record.step for decision in plan(records, settings, now, marks).decisions if decision.keep]


def test_the_newest_are_kept_by_number_and_not_by_name():
    """1000 is newer than 999, whatever the order in which they come."""
    records = [record(step) for step in (1000, 80, 999, 200)]
    random.Random(1).shuffle(records)
    assert kept(records, config(keep_newest=2)) == [999, 1000]


def test_every_kth_step_is_kept_and_steps_that_are_no_multiples_are_thinned_alike():
    """The first at or after each multiple stands for it."""
    assert kept([record(step) for step in range(100, 1001, 100)], config(keep_every=400)) == [400, 800, 1000]
    assert kept([record(step) for step in range(70, 1001, 93)], config(keep_every=400)) == [442, 814, 1000]


def test_the_best_are_kept_by_metric_direction_and_number():
    """Several metrics at once; of equally good ones the newer stays."""
    records = [
        record(1, metrics={"loss": 3.0, "accuracy": 0.9}),
        record(2, metrics={"loss": 1.0, "accuracy": 0.1}),
        record(3, metrics={"loss": 1.0, "accuracy": 0.2}),
        record(4, metrics={"loss": 2.0}),
        record(5),
    ]
    best = [{"metric": "loss", "count": 2}, {"metric": "accuracy", "direction": "max"}]
    assert kept(records, config(keep_best=best)) == [1, 2, 3, 5]
    assert kept(records, config(keep_best=[{"metric": "loss"}])) == [3, 5]


def test_every_decision_has_a_reason_that_names_what_it_rests_on():
    """Kept or not: nothing goes unexplained."""
    decisions = plan([record(step, metrics={"loss": step}) for step in (1, 2, 3)], config(keep_best=[{"metric": "loss"}]), 10**18).decisions
    assert [decision.reason for decision in decisions] == [
        "best by loss (1)",
        "not among the newest 1, not best by loss",
        "newest complete checkpoint; number 1 of the newest 1",
    ]


def test_a_young_checkpoint_is_kept_until_its_evaluations_had_time_to_arrive():
    """The age is counted from its completion."""
    records = [record(1, time=100 * SECOND), record(2, time=200 * SECOND)]
    assert kept(records, config(min_age=60), now=159 * SECOND) == [1, 2]
    assert kept(records, config(min_age=60), now=160 * SECOND) == [2]


def book(*feed, host="here"):
    """A book that has taken events in and was then restarted from its state."""
    state = {}
    before = Book(host, state)
    for event in feed:
        {"checkpoint": before.checkpoint, "eval": before.evaluation, "run_started": before.run_started}[event.kind](event)
    after = Book(host, msgspec.msgpack.decode(msgspec.msgpack.encode(state)))
    assert (after.records, after.runs) == (before.records, before.runs)
    return after


def complete(step, *, run="r", path=None, host="here", **fields):
    return Checkpoint(
        run=run, id=f"{run}@{step}", step=step, time=step * SECOND, path=path or f"/out/checkpoint-{step}", host=host, **fields
    )


def decided(made, settings):
    records = list(made.records.values())
    return kept(records, settings, marks=made.marks(records))


@pytest.mark.parametrize("order", ["eval first", "eval last"])
def test_a_metric_that_names_a_checkpoint_reaches_it_whenever_it_arrives(order):
    """Also with its data set in front; a NaN is no measure."""
    feed = [complete(1), complete(2), complete(3)]
    late = Eval(run="r", dataset="gsm8k", checkpoint="r@1", metrics={"accuracy": 0.9, "loss": float("nan")})
    made = book(late, *feed) if order == "eval first" else book(*feed, late)
    assert made.records["r@1"].metrics == {"accuracy": 0.9, "gsm8k/accuracy": 0.9}
    assert decided(made, config(keep_best=[{"metric": "gsm8k/accuracy", "direction": "max"}])) == [1, 3]


@pytest.mark.parametrize(
    "started",
    [
        RunStarted(run="other", resumed_from="r@1"),
        RunStarted(run="other", resumed_from="/out/checkpoint-1"),
        RunStarted(run="other", resumed_from="/out/checkpoint-1/"),
        RunStarted(run="other", resumed_from="r", resumed_step=1),
        RunStarted(run="r", resumed_from="r", resumed_step=1),
    ],
)
def test_the_checkpoint_that_a_run_resumed_from_is_kept_also_for_another_run(started):
    """Named by id, by path, or by run and step."""
    assert decided(book(complete(1), complete(2), complete(3), started), config()) == [1, 3]


def test_a_directory_that_is_being_written_again_is_kept():
    """Its old checkpoint may be half replaced; when the process dies, the next one's start ends that."""
    writing = Checkpoint(run="r", step=1, path="/out/checkpoint-1", host="here", state="writing")
    assert decided(book(complete(1), complete(2), writing), config()) == [1, 2]
    assert decided(book(complete(1), complete(2), writing, RunStarted(run="r")), config()) == [2]


def test_a_checkpoint_that_is_only_being_written_is_no_record_and_counts_for_nothing():
    """The newest complete one stays the newest until the next is complete."""
    writing = Checkpoint(run="r", step=3, path="/out/checkpoint-3", host="here", state="writing")
    assert decided(book(complete(1), complete(2), writing), config()) == [2]


def test_a_path_that_holds_a_new_checkpoint_holds_the_old_one_no_more():
    """A resumed run writes checkpoint-1 again."""
    assert list(book(complete(1), complete(7, path="/out/checkpoint-1")).records) == ["r@7"]


def test_the_deletion_of_an_old_checkpoint_says_nothing_of_the_new_one_at_its_path():
    """Neither of a complete one nor of one that is being written."""
    gone = complete(1)
    gone.state = "deleted"
    assert list(book(complete(1), complete(7, path="/out/checkpoint-1"), gone).records) == ["r@7"]
    writing = Checkpoint(run="r", step=2, path="/out/checkpoint-1", host="here", state="writing")
    assert book(complete(1), writing, gone).runs["r"].writing == ["/out/checkpoint-1"]


def test_checkpoints_of_other_hosts_and_deleted_ones_are_not_in_the_book():
    """Each host counts its own newest."""
    gone = complete(2)
    gone.state = "deleted"
    assert list(book(complete(1), complete(2), gone, complete(3, host="there"), complete(4, host="")).records) == ["r@1"]


metrics = st.dictionaries(st.sampled_from(["loss", "accuracy"]), st.floats(-10, 10), max_size=2)
histories = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 1_000), metrics), unique_by=lambda row: row[0], min_size=1, max_size=30)
settings = st.builds(
    RetentionConfig,
    keep_newest=st.integers(1, 5),
    keep_every=st.integers(0, 100),
    keep_best=st.just((BestConfig(metric="loss"), BestConfig(metric="accuracy", direction="max", count=2))),
    min_age=st.integers(0, 500).map(float),  # whole, as times are: what is young is then no matter of rounding
)


@examples(deadline=None)
@given(histories, settings, st.integers(0, 2_000), st.data())
def test_whatever_the_history_the_protected_are_kept_and_all_else_follows_from_the_policies(rows, chosen, now, data):
    """Newest, best by each metric, marked and young ones stay; deleting what goes and planning again deletes nothing more."""
    records = [Record(f"r@{step}", "r", step, at * SECOND, f"/out/{step}", metrics=values) for step, at, values in rows]
    marked = data.draw(st.sets(st.sampled_from([each.id for each in records]), max_size=3))
    marks = {each: ["marked"] for each in marked}
    decisions = plan(records, chosen, now * SECOND, marks).decisions
    stays = {decision.record.id for decision in decisions if decision.keep}
    assert all(decision.reasons for decision in decisions)
    assert len(decisions) == len(records)
    assert marked <= stays
    assert max(records, key=lambda each: each.step).id in stays
    for metric, sign in (("loss", 1), ("accuracy", -1)):
        measured = [each for each in records if metric in each.metrics]
        if measured:
            best = min(sign * each.metrics[metric] for each in measured)
            assert any(sign * each.metrics[metric] == best and each.id in stays for each in measured)
    assert not chosen.min_age or {each.id for each in records if now - each.time / SECOND < chosen.min_age} <= stays
    again = plan([each for each in records if each.id in stays], chosen, now * SECOND, marks).decisions
    assert all(decision.keep for decision in again)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"keep_newest": 0}, "keep_newest"),
        ({"keep_last": 3}, "keep_last"),
        ({"keep_best": [{"metric": "loss", "direction": "up"}]}, "direction"),
        ({"dry_run": "no"}, "dry_run"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(table, key):
    """A typing mistake must not delete anything."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(table, RetentionConfig)


def test_nothing_is_deleted_unless_it_is_asked_for():
    """Dry run is the default."""
    assert RetentionConfig().dry_run is True


def test_an_evaluation_counts_once_however_often_its_event_comes_and_also_when_it_came_first():
    """By its offset."""
    early = Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.5}, offset=3)
    later = Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.6}, offset=8)
    made = book(early, early, complete(1), later, later, complete(1))
    assert made.records["r@1"].evaluations == [3, 8]
    assert made.records["r@1"].metrics == {"accuracy": 0.6}
