"""What the daemon answers by itself: every command to its end, and nothing changes when it is refused."""

from __future__ import annotations

import pytest

from trainbus.bus.events import Command
from trainbus.trainer_node.inbox.desk import Desk
from trainbus.trainer_node.inbox.intake import Intake
from trainbus.trainer_node.inbox.queue import HELD, PAUSED, SETTINGS, Queue


class Room:
    """A desk with its queue, and what was answered and told."""

    def __init__(self, queue, folder):
        self.queue = queue
        self.intake = Intake(folder, queue, settle=0.0)
        self.answers, self.changes, self.stopped, self.newest = [], [], [], {}
        self.desk = Desk(
            queue, self.intake, lambda command, state, reason="", **result: self.answers.append((state, reason, result)),
            changed=lambda job, text: self.changes.append((job.name, job.state, job.priority)),
            stop=self.stopped.append, newest=lambda: self.newest,
        )  # fmt: skip

    def put(self, name):
        (self.intake.folder / name).write_text('{"text": "x"}\n')
        return self.intake.take(self.intake.folder / name, "normal").job

    def ask(self, verb, reason="", **arguments):
        command = Command(id=f"c{len(self.answers)}", verb=verb, arguments=arguments, requested_by="ann", reason=reason)
        (self.desk.edit if self.desk.edits(command) else self.desk.idle)(command)
        return self.answers[-1]

    def waiting(self):
        return [job.name for job in self.queue.jobs(("queued",))]


@pytest.fixture
def room(tmp_path):
    """A desk with the files a, b and c in the queue."""
    with Queue(tmp_path / "queue.db") as queue:
        room = Room(queue, tmp_path / "inbox")
        for name in "abc":
            room.put(f"{name}.jsonl")
        yield room


def test_the_queue_is_edited_by_commands(room):
    """Priority, place, removal and another attempt; each change is told, and the file goes where people look for it."""
    assert room.ask("queue_priority", job="c.jsonl", priority="high")[0] == "done"
    assert room.ask("queue_move", job="b.jsonl", before="a.jsonl")[0] == "done"
    assert room.waiting() == ["c.jsonl", "b.jsonl", "a.jsonl"]
    state, _, result = room.ask("queue_remove", job="b.jsonl")
    assert (state, result["path"]) == ("done", str(room.intake.folder / "failed" / "b.jsonl"))
    failing = room.queue.take()
    room.queue.fail(failing, "broken", path=room.intake.file_away(failing, "failed", "broken"))
    assert room.ask("queue_retry", job="c.jsonl")[0] == "done"
    assert room.waiting() == ["c.jsonl", "a.jsonl"]
    assert room.queue.find("c.jsonl").path.exists()
    assert [state for _, state, _ in room.changes] == ["queued", "queued", "failed", "queued"]
    skipped = room.queue.skip(room.queue.take(), "later")
    assert room.ask("queue_retry", job=skipped.name)[0] == "done"
    assert room.queue.find(skipped.name).path.exists()


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("queue_priority", {"job": "a.jsonl", "priority": "urgent"}, "high, normal, low"),
        ("queue_priority", {"job": "a.jsonl"}, "job and priority"),
        ("queue_priority", {"job": 3, "priority": "high"}, "as text"),
        ("queue_remove", {"job": "nothing"}, "no job 'nothing'"),
        ("queue_retry", {"job": "a.jsonl"}, "a.jsonl is queued"),
        ("queue_hold", {"job": "a.jsonl"}, "no arguments"),
        ("fly", {}, "unknown verb 'fly'; allowed: evaluate, free_caches"),
        ("evaluate", {}, "no file is being trained on"),
        ("skip", {}, "no file is being trained on"),
        ("save", {}, "nothing was learned yet"),
        ("resume", {}, "not paused"),
        ("set", {}, "nothing to set"),
        ("set", {"learning_rate": 7}, "below 1"),
        ("set", {"batch_size": 7}, "can't be set"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(room, verb, arguments, said):
    """And the queue stays as it is."""
    state, reason, _ = room.ask(verb, **arguments)
    assert (state, said in reason) == ("refused", True), reason
    assert (room.waiting(), room.changes, room.stopped) == (["a.jsonl", "b.jsonl", "c.jsonl"], [], [])


def test_a_pause_holds_until_it_is_taken_back_and_keeps_who_when_and_why(room):
    """It is in the queue's file, so also for the next daemon."""
    assert room.ask("pause", reason="lunch")[0] == "done"
    flag = room.queue.flag(PAUSED)
    assert (flag.by, flag.reason, flag.time > 0) == ("ann", "lunch", True)
    assert room.ask("pause")[0] == "refused"
    assert room.ask("resume")[0] == "done"
    assert room.queue.flag(PAUSED) is None


def test_the_queue_is_held_and_released(room):
    """Another flag than the pause: the current file is finished."""
    assert room.ask("queue_hold", reason="maintenance")[0] == "done"
    assert room.queue.flag(HELD).reason == "maintenance"
    assert room.ask("queue_release")[0] == "done"
    assert room.queue.flag(HELD) is None


def test_settings_wait_for_the_next_file_and_later_ones_are_added(room):
    """The answer says so; what is kept names the last command, whose result the worker will tell."""
    state, reason, result = room.ask("set", learning_rate=1e-5)
    assert (state, "first step of the next" in reason, result) == ("done", True, {"now": {"learning_rate": 1e-5}})
    room.ask("set", save_steps=7)
    flag = room.queue.flag(SETTINGS)
    assert (flag.settings, flag.command) == ({"learning_rate": 1e-5, "save_steps": 7}, "c1")


def test_stop_ends_the_daemon_and_lifts_a_pause(room):
    """Who starts it again means it to work."""
    room.ask("pause")
    room.newest = {"checkpoint": "r@5:abc", "path": "checkpoint-5"}
    assert room.ask("save") == ("done", "no file is being trained on: the newest checkpoint holds everything", room.newest)
    assert room.ask("stop", reason="enough") == ("done", "", room.newest)
    assert (room.stopped, room.queue.flag(PAUSED)) == (["enough"], None)
