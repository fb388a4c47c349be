"""The trash on a real disk: put in, restore, thin, empty; what others do to it meanwhile."""

import json
import os
import subprocess
import sys

import pytest

from tests.plugins.retention.support import actions, here, in_trash, make, record, seal
from trainbus.plugins.retention import sweeper
from trainbus.plugins.retention.pins import Pin, pin, pin_of, unpin
from trainbus.plugins.retention.recognition import NotACheckpoint
from trainbus.plugins.retention.sweeper import empty
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import verify


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def tree(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_what_was_put_into_the_trash_comes_back_as_it_was(out):
    """The ledger tells who, why, when, bytes and digest."""
    path = make(out, 7, optimizer=50)
    before = tree(path)
    trash = Trash(out, who="ann", wall=lambda: 5)
    trash.put(record(path, 7, bytes=300, digest="abc"), reason="too old", policy="max_bytes")
    assert here(out) == []
    thing = trash.find("r@7")
    entry = thing.entry
    assert (entry.who, entry.reason, entry.policy, entry.time, entry.bytes, entry.digest) == ("ann", "too old", "max_bytes", 5, 300, "abc")
    assert trash.restore(thing) == path
    assert tree(path) == before
    assert trash.contents() == []
    assert actions(out) == [("trashing", "r@7"), ("restoring", "r@7"), ("restored", "r@7")]


@pytest.mark.parametrize("name", ["r@7", "checkpoint-7", "path", "trash"])
def test_something_is_found_in_the_trash_by_every_name_that_it_has(out, name):
    """Id, directory name, path, place."""
    path = make(out, 7)
    trash = Trash(out)
    thing = trash.put(record(path, 7), reason="")
    assert trash.find({"path": str(path), "trash": thing.place.name}.get(name, name)) == thing


def test_restoring_never_replaces_what_is_in_the_place_by_now_not_even_an_empty_directory(out):
    """A trainer may have made it this moment."""
    trash = Trash(out)
    thing = trash.put(record(make(out, 7), 7), reason="")
    (out / "checkpoint-7").mkdir()
    with pytest.raises(NotACheckpoint, match="holds something else by now"):
        trash.restore(thing)
    assert trash.find("r@7") == thing


def test_what_is_being_emptied_can_not_be_restored(out):
    """Half a checkpoint must never look whole."""
    trash = Trash(out)
    thing = trash.put(record(make(out, 7), 7), reason="")
    assert not empty(trash, thing, pause=lambda _: False)
    assert len(list(thing.place.with_name(thing.place.name + ".emptying").iterdir())) > 0
    assert trash.find("r@7") is None
    with pytest.raises(NotACheckpoint, match="not in the trash any more"):
        trash.restore(thing)
    (left,) = trash.contents()
    assert empty(trash, left)
    assert in_trash(out) == []
    assert actions(out)[-1] == ("emptied", "r@7")


def test_emptying_keeps_the_content_of_hard_links_and_follows_no_symbolic_link(out, tmp_path):
    """A snapshot shares the files, and a link leads elsewhere."""
    path = make(out, 7)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").write_text("keep me")
    (path / "link").symlink_to(tmp_path / "elsewhere")
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/file").write_text("x")
    os.link(path / "model.safetensors", tmp_path / "snapshot")
    before = (tmp_path / "snapshot").read_bytes()
    trash = Trash(out)
    assert empty(trash, trash.put(record(path, 7), reason=""))
    assert in_trash(out) == []
    assert (tmp_path / "snapshot").read_bytes() == before
    assert (tmp_path / "elsewhere/precious").read_text() == "keep me"


def test_a_large_file_goes_piece_by_piece_but_not_one_that_a_snapshot_holds_too(out, tmp_path, monkeypatch):
    """No piece is larger than told, and a hard link keeps every byte."""
    monkeypatch.setattr(sweeper, "PIECE_BYTES", 100)
    path = make(out, 7, optimizer=1_000)
    (path / "shared.bin").write_bytes(b"s" * 1_000)
    os.link(path / "shared.bin", tmp_path / "snapshot")
    trash, pieces = Trash(out), []
    assert empty(trash, trash.put(record(path, 7), reason=""), pause=lambda size: pieces.append(size) or True)
    assert pieces.count(100) >= 10
    assert max(pieces) <= 200
    assert (tmp_path / "snapshot").read_bytes() == b"s" * 1_000


def test_a_trash_folder_that_became_a_symbolic_link_is_neither_emptied_nor_restored_from(out, tmp_path):
    """It may lead anywhere."""
    trash = Trash(out)
    thing = trash.put(record(make(out, 7), 7), reason="")
    trash.folder.rename(tmp_path / "moved")
    trash.folder.symlink_to(tmp_path / "moved")
    assert trash.contents() == []
    for act in (trash.restore, trash.condemn):
        with pytest.raises(OSError, match=r"\.trash"):
            act(thing)


def test_a_checkpoint_that_is_replaced_by_a_symbolic_link_is_not_touched(out, tmp_path):
    """Neither the link nor what it leads to."""
    path = make(out, 7)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotACheckpoint, match="symbolic link"):
        Trash(out).put(record(path, 7), reason="")
    assert path.is_symlink()
    assert verify(tmp_path / "elsewhere").faults == ()


def test_a_pin_that_is_set_between_the_look_and_the_rename_brings_the_checkpoint_back(out, monkeypatch):
    """Seen in the trash, undone at once."""
    path = make(out, 7)
    rename = os.rename

    def pin_first(*arguments, **named):
        monkeypatch.setattr(os, "rename", rename)
        pin(path, Pin(who="ann"))
        rename(*arguments, **named)

    monkeypatch.setattr(os, "rename", pin_first)
    with pytest.raises(NotACheckpoint, match="pinned meanwhile"):
        Trash(out).put(record(path, 7), reason="")
    assert here(out) == ["checkpoint-7"]
    assert str(pin_of(path)) == "pinned by ann"


def test_pins_hold_until_they_are_taken_away_and_need_a_directory(out):
    """Also one that can't be read."""
    path = make(out, 7)
    assert pin_of(path) is None
    pin(path, Pin(who="ann", why="best so far"))
    assert str(pin_of(path)) == "pinned by ann: best so far"
    assert verify(path).faults == ()
    assert unpin(path)
    assert not unpin(path)
    with pytest.raises(NotACheckpoint, match="no checkpoint directory"):
        pin(out / "checkpoint-8", Pin())
    (path / "trainbus_pin.json").write_text("{")
    assert pin_of(path) == Pin()


def test_thinning_drops_what_only_resuming_needs_and_restoring_brings_it_back(out):
    """At both ends the checkpoint is whole, and it is the same checkpoint."""
    path = make(out, 7, optimizer=500)
    (path / "rng_state_0.pth").write_bytes(b"r")
    (path / "global_step7").mkdir()
    (path / "global_step7/zero.pt").write_bytes(b"z" * 10)
    (path / "trainbus_checkpoint.json").unlink()
    seal(path, 7)
    before = tree(path)
    trash = Trash(out)
    thing = trash.thin(record(path, 7), reason="old")
    assert thing.entry.bytes == 511
    assert sorted(tree(path)) == ["config.json", "model.safetensors", "trainbus_checkpoint.json", "trainer_state.json"]
    found = verify(path)
    assert (found.faults, found.kind) == ((), "model")
    assert json.loads((path / "trainbus_checkpoint.json").read_text())["id"] == "r@7"
    with pytest.raises(NotACheckpoint, match="no optimizer state"):
        trash.thin(record(path, 7), reason="again")
    trash.restore(trash.find("r@7"))
    assert tree(path) == before
    assert verify(path).faults == ()
    assert in_trash(out) == []


def test_the_whole_checkpoint_is_restored_before_what_thinning_took(out):
    """Without it there is nothing to complete."""
    path = make(out, 7, optimizer=500)
    trash = Trash(out)
    thin = trash.thin(record(path, 7), reason="old")
    whole = trash.put(record(path, 7), reason="older")
    assert trash.find("r@7") == whole
    with pytest.raises(NotACheckpoint, match="not there to be completed"):
        trash.restore(thin)
    trash.restore(whole)
    trash.restore(trash.find("r@7"))
    assert (path / "optimizer.pt").stat().st_size == 500


def test_what_thinning_took_is_not_put_into_another_checkpoint_of_that_name(out):
    """A resumed run wrote the step again."""
    path = make(out, 7, optimizer=500)
    trash = Trash(out)
    thin = trash.thin(record(path, 7), reason="old")
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    make(out, 7, optimizer=9, run="s")
    with pytest.raises(NotACheckpoint, match="another checkpoint"):
        trash.restore(thin)
    trash.recover()
    assert (path / "optimizer.pt").stat().st_size == 9


def test_a_torn_line_in_the_ledger_is_passed_over_and_the_next_one_is_whole(out):
    """A kill in the middle of a write."""
    trash = Trash(out)
    trash.put(record(make(out, 7), 7), reason="")
    with trash.ledger.path.open("ab") as file:
        file.write(b'{"time": 5, "action": "tra')
    trash.put(record(make(out, 8), 8), reason="")
    assert [thing.entry.id for thing in trash.contents()] == ["r@7", "r@8"]


FULL = """
import errno, os, sys
from pathlib import Path
from tests.plugins.retention.support import make, record, seal
from trainbus.plugins.retention.sweeper import empty
from trainbus.plugins.retention.trash import Trash
out = Path(sys.argv[1])
for step in range(1, 6):
    make(out, step, optimizer=100_000)
trash = Trash(out)
trash.prepare()
try:
    with (out / "filler").open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
except OSError as error:
    assert error.errno == errno.ENOSPC
assert os.statvfs(out).f_bavail == 0
for step in range(1, 5):
    trash.put(record(out / f"checkpoint-{step}", step), reason="the disk is full " * 200)
assert len(trash.contents()) == 4
trash.restore(trash.find("r@4"))
for thing in trash.contents():
    assert empty(trash, thing)
assert os.statvfs(out).f_bavail * os.statvfs(out).f_frsize >= 300_000
print(sorted(path.name for path in out.glob("checkpoint-*")))
"""


def test_a_full_disk_keeps_nothing_from_being_trashed_restored_and_emptied(tmp_path):
    """On a small file system of its own: the ledger's next lines have their blocks reserved."""
    mount = tmp_path / "small"
    mount.mkdir()
    script = f'mount -t tmpfs -o size=2m none {mount} && exec {sys.executable} -c "$SCRIPT" {mount}'
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no private mounts here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env={**os.environ, "SCRIPT": FULL}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['checkpoint-4', 'checkpoint-5']"


def test_a_disk_that_fails_while_trashing_leaves_the_checkpoint_where_it_is(out, monkeypatch):
    """First the ledger, then the rename: without a line nothing moves."""
    path = make(out, 7)
    trash = Trash(out)
    trash.prepare()
    write = os.write

    def full(handle, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        trash.put(record(path, 7), reason="")
    monkeypatch.setattr(os, "write", write)
    assert here(out) == ["checkpoint-7"]
    assert trash.contents() == []
