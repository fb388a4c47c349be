"""The checkpoints of a run as the API tells of them: fates from retention, the checkpoints' own events, and disks."""

import pytest

from tests.plugins.web.story import SECOND, keeping, training
from trainbus.bus.events import Checkpoint, CheckpointDisk, CheckpointFate, Command, Retention, RunEnded, RunStarted
from trainbus.plugins.web import checkpoint_board

RUN = "qwen3-gsm8k"
NOW = 1_700_000_000 * SECOND


@pytest.fixture
def board(dashboard):
    return dashboard()


def told(board, run="r"):
    return {row["step"]: row for row in board.get(f"/api/runs/{run}/checkpoints")["checkpoints"]}


def test_each_checkpoint_says_what_is_to_become_of_it_and_why(board):
    """The highest step first; what retention has not told of speaks for itself; the disk is that of the run's directory."""
    board.feed(*training(), *keeping(now=NOW))
    found = board.get(f"/api/runs/{RUN}/checkpoints")
    states = [(row["step"], row["state"]) for row in found["checkpoints"]]
    assert states == [
        (400, "kept"), (350, "kept"), (300, "kept"), (250, "kept"), (200, "trashed"), (150, "goes"), (100, "trashed"), (50, "gone"),
    ]  # fmt: skip
    rows = told(board, RUN)
    assert (rows[250]["pinned"], rows[250]["protected"], rows[250]["reasons"]) == (
        "pinned by bo: before the spike", True, ["pinned by bo: before the spike"],
    )  # fmt: skip
    assert rows[350]["leases"] == ["plugin:inference: evaluation"]
    assert (rows[200]["restorable"], rows[200]["until"]) == (True, NOW + 3600 * SECOND)
    assert (rows[50]["managed"], rows[50]["reasons"], rows[400]["managed"]) == (False, ["not among the newest 3"], True)
    (disk,) = found["disks"]
    assert (disk["path"], disk["host"], disk["full_in"], disk["time"]) == ("/runs", "gpu-box", 93_000.0, NOW)


def test_without_retention_the_checkpoints_speak_for_themselves(board):
    """Written, complete, deleted with its reason; nothing that could be asked of anybody."""
    for step, state in ((1, "deleted"), (2, "complete"), (3, "writing")):
        board.feed(Checkpoint(run="r", id=f"c{step}", step=step, path=f"/x/{step}", state=state, reason="by hand" if step == 1 else ""))
    rows = told(board)
    assert [(rows[step]["state"], rows[step]["reasons"], rows[step]["managed"]) for step in (1, 2, 3)] == [
        ("gone", ["by hand"], False), ("complete", [], False), ("writing", [], False),
    ]  # fmt: skip
    assert board.get("/api/runs/r/checkpoints")["disks"] == []


def test_only_changes_come_until_a_host_begins_anew(board):
    """A change replaces one row, gone keeps what it was, full forgets what that host had told and nothing else."""
    fates = [CheckpointFate(id=f"c{step}", step=step, path=f"/x/{step}", bytes=10, pinned="mine") for step in (1, 2)]
    board.feed(Retention(run="r", host="a", full=True, checkpoints=fates))
    board.feed(Retention(run="r", host="b", full=True, checkpoints=[CheckpointFate(id="c3", step=3)]))
    board.feed(Retention(run="r", host="a", dry_run=True, checkpoints=[CheckpointFate(id="c1", step=1, state="gone")]))
    rows = told(board)
    assert [(rows[step]["state"], rows[step]["bytes"], rows[step]["pinned"]) for step in (1, 2, 3)] == [
        ("gone", 10, ""), ("kept", 10, "mine"), ("kept", None, ""),
    ]  # fmt: skip
    assert [rows[step]["dry_run"] for step in (1, 2, 3)] == [True, True, False]
    board.feed(Retention(run="r", host="a", full=True, checkpoints=fates[1:]))
    assert list(told(board)) == [3, 2]


def test_a_new_checkpoint_is_shown_before_retention_has_looked_at_it(board):
    """And once, when it has."""
    board.feed(Checkpoint(run="r", id="c", step=1, path="/x/1", host="a", bytes=5))
    assert [row["state"] for row in told(board).values()] == ["complete"]
    board.feed(Retention(run="r", host="a", checkpoints=[CheckpointFate(id="c", step=1, path="/x/1")]))
    assert [row["state"] for row in board.get("/api/runs/r/checkpoints")["checkpoints"]] == ["kept"]


def test_a_page_learns_from_the_version_that_something_changed(board):
    """Fates, disks of the same host, and checkpoints; not what concerns other hosts. What retention says is no sign of life."""
    board.feed(RunStarted(run="r", time=SECOND), RunEnded(run="r", time=2 * SECOND))

    def version():
        return board.get("/api/state?run=r&lists=no")["run"]["versions"].get("fates", 0)

    seen = [version()]
    for event in (
        Retention(run="r", host="a", checkpoints=[CheckpointFate(id="c", step=1, path="/x/1")], time=9 * SECOND),
        Retention(host="a", disks=[CheckpointDisk(path="/", directories=["/x"])], time=9 * SECOND),
        Retention(host="b", disks=[CheckpointDisk(path="/", directories=["/x"])], time=9 * SECOND),
        Checkpoint(run="r", id="d", step=2, path="/x/2", host="a", time=2 * SECOND),
    ):
        board.feed(event)
        seen.append(version())
    assert seen == [0, 1, 2, 2, 3]
    assert [disk["host"] for disk in board.get("/api/runs/r/checkpoints")["disks"]] == ["a"]
    assert board.get("/api/runs/r")["updated"] == 2 * SECOND


def test_of_very_many_checkpoints_those_of_the_highest_steps_are_kept(board, monkeypatch):
    """The board lives in memory."""
    monkeypatch.setattr(checkpoint_board, "FATES", 3)
    board.feed(Retention(run="r", host="a", checkpoints=[CheckpointFate(id=f"c{step}", step=step) for step in (4, 1, 5, 3, 2)]))
    assert list(told(board)) == [5, 4, 3]


def test_retention_is_asked_by_a_command_that_names_the_checkpoint(board):
    """Pin, unpin, restore; the list of commands says whom they are for. An unknown run has no checkpoints."""
    board.feed(*training(steps=2))
    for verb, more in (("pin", {}), ("unpin", {}), ("restore", {"pin": False})):
        asked = {"verb": verb, "plugin": "retention", "arguments": {"checkpoint": "c"} | more, "reason": "for the paper"}
        assert board.post(f"/api/runs/{RUN}/commands", asked)[0] == 202
    assert [(sent.run, sent.verb, sent.plugin, sent.arguments, sent.reason) for sent in board.context.commands] == [
        (RUN, "pin", "retention", {"checkpoint": "c"}, "for the paper"),
        (RUN, "unpin", "retention", {"checkpoint": "c"}, "for the paper"),
        (RUN, "restore", "retention", {"checkpoint": "c", "pin": False}, "for the paper"),
    ]
    board.feed(Command(run=RUN, id="1", verb="pin", plugin="retention", arguments={"checkpoint": "c"}))
    (order,) = board.get(f"/api/runs/{RUN}/lists/commands")["entries"]
    assert (order["plugin"], order["state"]) == ("retention", "sent")
    assert board.ask("/api/runs/none/checkpoints")[0] == 404
