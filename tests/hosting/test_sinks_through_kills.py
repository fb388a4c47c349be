"""Sinks as processes of their own, killed with kill -9 while events come."""

import json
import os
import signal

from tests.support import wait_for
from trainbus.plugins.sinks.tensorboard import FILE
from trainbus.sources.tensorboard import read_folder


def test_files_have_every_event_once_though_their_sinks_are_killed(system, tmp_path):
    """JSONL and TensorBoard, each killed with events under way."""
    lines, board = tmp_path / "jsonl", tmp_path / "board"
    options = {"interval": 0.02, "batch": 50}
    system.up("jsonl", "tensorboard", jsonl={"directory": str(lines), **options}, tensorboard={"directory": str(board), **options})

    def written():
        """The steps in the file of lines, the last line left out while it is half there."""
        file = lines / "r.jsonl"
        content = file.read_text().rpartition("\n")[0] if file.exists() else ""
        return [row["step"] for row in map(json.loads, content.splitlines()) if row["kind"] == "step"]

    def charted():
        return [event.step for event in read_folder(board / "r")] if (board / "r" / FILE).exists() else []

    system.publish(300)
    wait_for(lambda: written() and charted(), 60.0)
    old = {name: system.wait_for_state(name, "running").pid for name in ("jsonl", "tensorboard")}
    system.publish(300)
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in old.items():
        system.wait_for_state(name, "running", not_pid=pid)
    system.publish(100)
    wait_for(lambda: len(written()) >= 700 and len(charted()) >= 700, 60.0)
    assert written() == list(range(700))
    assert (board / "r" / FILE).read_bytes().count(b"\x0a\x04loss") == 700
