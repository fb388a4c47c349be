"""Checkpoints on a real disk, as small as they can be and still whole."""

import json
import os
import signal
import socket
import sys
import time

from trainbus.bus.events import Checkpoint
from trainbus.plugins.retention.plugin import RetentionPlugin
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.verify import digest_of, files_of, whole_digest
from trainbus.testing.context import MemoryContext, PluginHarness

HERE = socket.gethostname()


def safetensors(number, size=64):
    """A safetensors file of one tensor of bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([number % 256]) * size


def seal(path, step, run="r"):
    """A marker like the trainer's, with an id that is easy to name."""
    files = {name: {"bytes": (path / name).stat().st_size, "xxh3": digest_of(path / name)} for name in files_of(path)}
    digest = whole_digest([(name, entry["bytes"], entry["xxh3"]) for name, entry in files.items()])
    marker = {"id": f"{run}@{step}", "run": run, "step": step, "digest": digest, "created": 1, "files": files}
    (path / "trainbus_checkpoint.json").write_text(json.dumps(marker))


def make(out, step, *, marker=True, optimizer=0, run="r", name=None):
    """A checkpoint on the disk; its path."""
    path = out / (name or f"checkpoint-{step}")
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(safetensors(step))
    (path / "config.json").write_text('{"model_type": "qwen3"}')
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if optimizer:
        (path / "optimizer.pt").write_bytes(b"o" * optimizer)
    if marker:
        seal(path, step, run)
    return path


def complete(path, step, run="r", **fields):
    """The event that announces it."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.name != "trainbus_checkpoint.json")
    return Checkpoint(run=run, id=f"{run}@{step}", step=step, time=step, path=str(path), host=HERE, bytes=size, **fields)


def write(out, step, **options):
    """Both."""
    return complete(make(out, step, **options), step, run=options.get("run", "r"))


def record(path, step, run="r", **fields):
    """What the book would hold of it."""
    return Record(f"{run}@{step}", run, step, step, str(path), **fields)


def wait_until(condition, deadline=20.0):
    """Whether it comes true before the deadline."""
    end = time.monotonic() + deadline
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return found


def started(tmp_path, config, context=None, **options):
    """A plugin that runs, over a context that survives it."""
    context = context or MemoryContext(name="retention", directory=tmp_path / "plugin")
    harness = PluginHarness(RetentionPlugin(**options), config=config, context=context)
    harness.start()
    return harness


def plugin_of(harness):
    """The plugin inside."""
    return next(iter(harness.manager.get_plugins()))


def settle(harness, deadline=20.0):
    """Look until nothing is left to wait for; the seconds until the next look."""
    found = []
    interval = plugin_of(harness).config.interval
    assert wait_until(lambda: found.append(harness.every()) or found[-1] == interval, deadline), found[-3:]
    return found[-1]


def here(out):
    """Names of what is in its place."""
    return sorted(path.name for path in out.iterdir() if path.name != ".trash")


def in_trash(out):
    """Names of what lies in the trash, without the ledger."""
    folder = out / ".trash"
    return sorted(path.name for path in folder.iterdir() if path.name != "ledger.jsonl") if folder.exists() else []


def deleted(harness):
    """Ids and reasons of deletions that were told."""
    return [(event.id, event.reason) for event in harness.published if event.kind == "checkpoint" and event.state == "deleted"]


def actions(out):
    """What the ledger tells."""
    lines = (out / ".trash/ledger.jsonl").read_text().splitlines()
    return [(entry["action"], entry["id"]) for entry in map(json.loads, lines)]


WATCHED = frozenset(
    {
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.listdir",
        "os.scandir",
        "os.fwalk",
        "ctypes.dlsym",
        "fcntl.flock",
        "os.link",
    }
)
"""Audit events of what touches the disk; the kill comes before the operation."""


def killed_at(number, work):
    """Do ``work`` in a child that is killed with SIGKILL before its ``number``-th operation on the disk; True when it was."""
    child = os.fork()
    if child == 0:
        left = number

        def kill(event, _):
            nonlocal left
            if event in WATCHED:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the work itself failed before operation {number}"
    return os.WIFSIGNALED(status)
