"""What a page needs: events that tell what is to become of each checkpoint, and commands that pin, unpin and restore."""

import time

import msgspec
import pytest

from tests.plugins.retention.support import HERE, here, in_trash, make, plugin_of, record, settle, started, wait_until, write
from trainbus.bus.events import Checkpoint, CheckpointFate, Command, CommandResult, Eval, Retention
from trainbus.plugins.retention.pins import Pin, pin, pin_of
from trainbus.plugins.retention.trash import Trash

SETTINGS = {
    "dry_run": False,
    "keep_newest": 1,
    "keep_best": [{"metric": "accuracy", "direction": "max"}],
    "min_age": 0,
    "trash_grace": 3600,
}


class Page:
    """What somebody knows who only reads events."""

    def __init__(self):
        self.fates = {}
        self.disks = []
        self.told = []

    def read(self, harness):
        for event in harness.published:
            if not isinstance(event, Retention):
                continue
            if event.full:
                self.fates = {key: fate for key, fate in self.fates.items() if key[:2] != (event.run, event.host)}
            self.told.append([fate.id for fate in event.checkpoints])
            for fate in event.checkpoints:
                self.fates[event.run, event.host, fate.id] = fate
            self.disks = event.disks or self.disks
        harness.published.clear()
        return {fate.step: fate for fate in self.fates.values() if fate.state != "gone"}


def command(verb, checkpoint="r@1", *, identity="c1", age=0.0, plugin="retention", **arguments):
    return Command(
        run="r",
        id=identity,
        verb=verb,
        arguments={"checkpoint": checkpoint, **arguments},
        requested_by="plugin:web",
        reason="for the paper" if verb == "pin" else "",
        plugin=plugin,
        time=time.time_ns() - int(age * 1e9),
    )


def answers(harness):
    return [(event.command, event.state, event.reason) for event in harness.published if isinstance(event, CommandResult)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_page_learns_what_is_to_become_of_each_checkpoint_and_why(tmp_path, out):
    """Kept, trashed, pinned, leased; with bytes, metrics and reasons."""
    harness, page = started(tmp_path, SETTINGS), Page()
    harness.feed(*(write(out, step) for step in (1, 2, 3, 4, 5)), Eval(run="r", checkpoint="r@2", metrics={"accuracy": 0.9}))
    pin(out / "checkpoint-3", Pin(who="ann", why="for the paper"))
    harness.context.leases["r@4"] = ["shared"]
    settle(harness)
    known = page.read(harness)
    assert {step: fate.state for step, fate in known.items()} == {1: "trashed", 2: "kept", 3: "kept", 4: "kept", 5: "kept"}
    assert known[1].reasons == ["deleted by retention: not among the newest 1, not best by accuracy"]
    assert (known[1].restorable, known[1].bytes, known[1].until > time.time_ns()) == (True, 175, True)
    assert (known[2].reasons[0], known[2].metrics, known[2].protected) == ("best by accuracy (0.9)", {"accuracy": 0.9}, True)
    assert (known[3].pinned, known[3].path) == ("pinned by ann: for the paper", str(out / "checkpoint-3"))
    assert known[4].leases == ["test"]
    assert known[5].reasons[0] == "newest complete checkpoint"
    assert [disk.directories for disk in page.disks] == [[str(out)]]


def test_only_changes_are_told_and_a_new_process_begins_anew(tmp_path, out):
    """Not one event for each checkpoint at each look."""
    harness, page = started(tmp_path, SETTINGS | {"keep_newest": 3}), Page()
    harness.feed(*(write(out, step) for step in (1, 2)))
    settle(harness)
    page.read(harness)
    settle(harness)
    page.read(harness)
    assert page.told.count([]) == 1  # the one event about disks
    page.told.clear()
    pin(out / "checkpoint-1", Pin(who="ann"))
    settle(harness)
    page.read(harness)
    assert page.told == [["r@1"]]
    harness.stop()
    (out / "checkpoint-1").rename(tmp_path / "gone")
    again = started(tmp_path, SETTINGS | {"keep_newest": 3}, harness.context)
    settle(again)
    assert list(page.read(again)) == [2]


def test_a_run_of_which_nothing_is_left_is_told_as_empty_also_after_a_restart(tmp_path, out):
    """A page must not show for ever what is gone."""
    harness, page = started(tmp_path, SETTINGS), Page()
    harness.feed(write(out, 1))
    settle(harness)
    assert list(page.read(harness)) == [1]
    harness.stop()
    (out / "checkpoint-1").rename(tmp_path / "gone")
    again = started(tmp_path, SETTINGS, harness.context)
    settle(again)
    assert page.read(again) == {}


def test_what_goes_for_good_is_told(tmp_path, out):
    """After the grace time, by the clock of the machine."""
    now = [10**15]
    harness, page = started(tmp_path, SETTINGS | {"trash_bytes_per_second": 1e12}, wall=lambda: now[0]), Page()
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert page.read(harness)[1].state == "trashed"
    now[0] += 3601 * 10**9
    settle(harness)
    assert wait_until(lambda: plugin_of(harness).sweeper.stats().emptied, 60)
    settle(harness)
    assert list(page.read(harness)) == [2]


def test_a_dry_run_tells_what_would_go(tmp_path, out):
    """So the panel works before anybody dares to let anything go."""
    harness, page = started(tmp_path, SETTINGS | {"dry_run": True}), Page()
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert all(event.dry_run for event in harness.published if isinstance(event, Retention))
    assert {step: fate.state for step, fate in page.read(harness).items()} == {1: "goes", 2: "kept"}


def test_very_many_checkpoints_come_in_several_events(tmp_path):
    """Each of a bounded size, and only the first begins anew."""
    harness, page = started(tmp_path, SETTINGS | {"keep": [{"policy": "all"}]}), Page()
    harness.feed(*(Checkpoint(run="r", id=f"r@{step}", step=step, path=f"/nowhere/{step}", host=HERE) for step in range(1201)))
    settle(harness)
    told = [event for event in harness.published if isinstance(event, Retention) and event.checkpoints]
    assert [(len(event.checkpoints), event.full) for event in told] == [(500, True), (500, False), (201, False)]
    assert len(page.read(harness)) == 1201


def test_a_command_pins_a_checkpoint_which_then_stays_and_unpins_it(tmp_path, out):
    """The answer says where; how things stand is told at once, before the next look."""
    harness, page = started(tmp_path, SETTINGS), Page()
    harness.feed(write(out, 1), command("pin"))
    assert answers(harness) == [("c1", "done", "")]
    assert page.read(harness)[1].pinned == "pinned by plugin:web: for the paper"
    harness.feed(write(out, 2), write(out, 3))
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-3"]
    harness.feed(command("unpin", identity="c2"))
    assert here(out) == ["checkpoint-1", "checkpoint-3"]  # the timer deletes, a command never does
    settle(harness)
    assert here(out) == ["checkpoint-3"]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_command_restores_what_lies_in_the_trash_and_pins_it_unless_told_otherwise(tmp_path, out, pinned):
    """It is announced as complete again."""
    harness = started(tmp_path, SETTINGS)
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    harness.published.clear()
    harness.feed(command("restore") if pinned else command("restore", pin=False))
    assert answers(harness) == [("c1", "done", "")]
    back = [(event.id, event.state, event.reason) for event in harness.published if isinstance(event, Checkpoint)]
    assert back == [("r@1", "complete", "restored from the trash by plugin:web")]
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    settle(harness)
    assert here(out) == (["checkpoint-1", "checkpoint-2"] if pinned else ["checkpoint-2"])


def test_a_command_brings_a_dropped_optimizer_state_back(tmp_path, out):
    """The checkpoint counts as whole again, and is not thinned at the next look."""
    harness, page = started(tmp_path, SETTINGS | {"keep_newest": 2, "thin": "always", "thin_keep_newest": 1}), Page()
    harness.feed(write(out, 1, optimizer=500), write(out, 2))
    settle(harness)
    assert (page.read(harness)[1].thinned, page.fates["r", HERE, "r@1"].restorable) == (True, True)
    harness.feed(command("restore"))
    settle(harness)
    assert (out / "checkpoint-1/optimizer.pt").stat().st_size == 500
    known = page.read(harness)[1]
    assert (known.thinned, known.restorable, known.bytes) == (False, False, 675)


def leased(harness, out):
    harness.context.leases["r@1"] = ["exclusive"]


def damaged(harness, out):
    settle(harness)
    (thing,) = Trash(out).contents()
    file = thing.place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("verb", "options", "prepare", "why"),
    [
        ("pin", {"checkpoint": "r@9"}, None, "r@9 is not known here"),
        ("pin", {"checkpoint": ""}, None, "it names no checkpoint"),
        ("burn", {}, None, "retention knows no 'burn'; it knows pin, unpin, restore"),
        ("pin", {}, leased, "r@1 is held: exclusive"),
        ("pin", {}, damaged, "r@1 lies in the trash: restore it first"),
        ("restore", {"checkpoint": "r@2"}, None, "the trash does not hold r@2"),
        ("restore", {}, damaged, "it is not whole: model.safetensors has 133 bytes instead of 134"),
        ("pin", {"age": 601}, None, "nobody was there to do it within 10 minutes; ask again"),
    ],
)
def test_what_can_not_be_done_is_refused_with_its_reason(tmp_path, out, verb, options, prepare, why):
    """Nothing is changed."""
    harness = started(tmp_path, SETTINGS)
    harness.feed(write(out, 1), write(out, 2))
    if prepare:
        prepare(harness, out)
    before = here(out), in_trash(out)
    harness.feed(command(verb, **options))
    assert [(state, reason) for _, state, reason in answers(harness)] == [("refused", why)]
    assert (here(out), in_trash(out)) == before
    assert pin_of(out / "checkpoint-2") is None


def test_a_command_that_has_its_answer_is_not_obeyed_again(tmp_path, out):
    """Whoever reads the journal from its beginning meets all commands that there ever were."""
    harness = started(tmp_path, SETTINGS)
    harness.feed(write(out, 1))
    asked = command("pin")
    harness.context.history += [
        Command(run="r", id="c1", verb="pin", offset=1),
        CommandResult(run="r", command="c1", state="done", offset=2),
    ]
    asked.offset = 1
    harness.feed(asked)
    assert answers(harness) == []
    assert pin_of(out / "checkpoint-1") is None


def test_commands_for_others_are_left_alone(tmp_path, out):
    """For the run's trainer, for another plugin, and for the retention of another machine."""
    harness = started(tmp_path, SETTINGS)
    harness.feed(write(out, 1), Checkpoint(run="r", id="r@7", step=7, path="/far/checkpoint-7", host="elsewhere"))
    harness.feed(command("pin", plugin=""), command("pin", plugin="other"), command("pin", "r@7"))
    assert answers(harness) == []
    assert pin_of(out / "checkpoint-1") is None


def test_a_checkpoint_that_the_book_has_lost_is_restored_by_the_ledger(tmp_path, out):
    """The trash knows what it holds."""
    harness = started(tmp_path, SETTINGS)
    harness.feed(write(out, 1), write(out, 2))
    Trash(out, who="ann").put(record(make(out, 3), 3), reason="by hand")
    settle(harness)
    harness.feed(command("restore", "r@3"))
    assert answers(harness) == [("c1", "done", "")]
    assert "checkpoint-3" in here(out)


def test_a_fate_is_small_on_the_wire():
    """Fields with their defaults are left out."""
    assert len(msgspec.msgpack.encode(CheckpointFate(id="r@1", step=1))) < 20
