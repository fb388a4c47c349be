"""Segments, spool and outbox: what is on the disk is read back whole, or not at all (D2)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sending.conftest import Disk
from trainbus.bus.outbox import DROPPED, OTHER_JOURNAL, UNREADABLE, Hole, Outbox
from trainbus.bus.segment import HEADER_BYTES, RECORD_BYTES, Segment
from trainbus.bus.spool import Identity, Spool, read_meta, remove_stale_drafts, spool_root, try_lock, unlock
from trainbus.errors import SpoolError

SEGMENT = 4096


def outbox_in(root: Path, *, total: int = 100 * SEGMENT, memory: int = 10, disk: Disk | None = None, source: str = "abc") -> Outbox:
    spool = Spool(root, Identity(source=source, run="r"), segment_bytes=SEGMENT, total_bytes=total, allocate=disk or Disk())
    outbox = Outbox(spool, memory_events=memory)
    outbox.prepare(0.0)
    return outbox


def put(outbox: Outbox, *bodies: bytes) -> None:
    """Append as a publisher with a prompt owner thread does."""
    for body in bodies:
        outbox.append(outbox.next, body)
        outbox.prepare(0.0)


def crash(root: Path, into: Path) -> Outbox:
    """What the next process finds after kill -9: the files as they are, the lock free."""
    shutil.copytree(spool_root(root) / "abc", into / "spool" / "abc")
    lock = try_lock(into / "spool" / "abc")
    assert lock is not None
    return Outbox.recover(*Spool.recover(into / "spool" / "abc", lock))


def contents(outbox: Outbox) -> list[bytes | Hole]:
    found: list[bytes | Hole] = []
    seq = outbox.acknowledged
    while seq < outbox.next:
        taken = outbox.take(seq, 7, 1000)
        if isinstance(taken, Hole):
            found.append(taken)
            seq = taken.last + 1
        else:
            assert taken
            found.extend(taken)
            seq += len(taken)
    return found


def body(number: int, size: int = 100) -> bytes:
    return f"event {number} ".encode().ljust(size, b"x")


def test_a_crashed_process_leaves_all_its_events(root: Path, tmp_path: Path) -> None:
    """D2: over many segments, everything appended is read back in order."""
    outbox = outbox_in(root)
    bodies = [body(n) for n in range(300)]
    put(outbox, *bodies)
    assert contents(outbox) == bodies
    assert contents(crash(root, tmp_path / "after")) == bodies


def test_a_torn_last_record_is_dropped_at_every_byte(tmp_path: Path) -> None:
    """D2: whatever part of the last record reached the file, the ones before it are whole and it is not there."""
    path = tmp_path / "0.seg"
    segment = Segment.create(path, SEGMENT)
    segment.begin(7)
    spool = Spool(tmp_path, Identity(source="s", run="r"), segment_bytes=SEGMENT, total_bytes=SEGMENT)
    writer = Outbox(spool, memory_events=1)
    for number in (7, 8, 9):
        assert writer._store(segment, number, body(number))
    whole = path.read_bytes()
    size = RECORD_BYTES + 100
    start = HEADER_BYTES + 2 * size
    for cut in range(size):
        path.write_bytes(whole[: start + cut] + bytes(SEGMENT - start - cut))
        torn = Segment.recover(path)
        assert torn is not None
        assert torn.read(7, 9, 10_000) == [body(7), body(8)]
        torn.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, HEADER_BYTES + 10 * 40), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_a_wrong_event(tmp_path: Path, at: int, bit: int) -> None:
    """D2: a damaged record ends what is read; what is read is what was written."""
    path = tmp_path / "0.seg"
    path.unlink(missing_ok=True)
    segment = Segment.create(path, SEGMENT)
    segment.begin(0)
    writer = Outbox(Spool(tmp_path, Identity(source="s", run="r"), segment_bytes=SEGMENT, total_bytes=SEGMENT), memory_events=1)
    bodies = [body(n, 40 - RECORD_BYTES) for n in range(10)]
    for number, one in enumerate(bodies):
        writer._store(segment, number, one)
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1 << bit
    path.write_bytes(damaged)
    read = Segment.recover(path)
    if read is not None:
        got = read.read(0, 99, 10_000)
        assert got == bodies[: len(got)]
        if at >= HEADER_BYTES and at < HEADER_BYTES + 400:
            assert len(got) == (at - HEADER_BYTES) // 40
        read.close()


def test_a_recycled_segment_does_not_show_what_it_held_before(root: Path, tmp_path: Path) -> None:
    """Segments are used again without zeroing: their old records must not come back, also after a crash in the middle."""
    outbox = outbox_in(root)
    bodies = [body(n) for n in range(400)]
    for number, one in enumerate(bodies):
        put(outbox, one)
        outbox.acknowledge(number)
    assert outbox.spool._count <= 3
    assert contents(outbox) == bodies[-1:]
    assert contents(crash(root, tmp_path / "after")) == bodies[-1:]


def test_damage_in_the_middle_is_declared_and_the_segments_behind_it_are_read(root: Path, tmp_path: Path) -> None:
    """D3: what can't be read is a hole with a reason, not silence."""
    outbox = outbox_in(root)
    bodies = [body(n) for n in range(100)]
    put(outbox, *bodies)
    crash(root, tmp_path / "after").close()
    files = sorted((tmp_path / "after" / "spool" / "abc").glob("*.seg"))
    content = bytearray(files[0].read_bytes())
    content[HEADER_BYTES + 5 * (RECORD_BYTES + 100) + 50] ^= 1
    files[0].write_bytes(content)
    lock = try_lock(files[0].parent)
    assert lock is not None
    again = Outbox.recover(*Spool.recover(files[0].parent, lock))
    found = contents(again)
    hole = found[5]
    assert isinstance(hole, Hole)
    assert hole.reason == UNREADABLE
    assert found == [*bodies[:5], hole, *bodies[hole.last + 1 :]]


def test_a_damaged_end_is_declared_because_the_spool_counts_what_was_published(root: Path, tmp_path: Path) -> None:
    outbox = outbox_in(root)
    put(outbox, body(0), body(1), body(2))
    file = next(iter((spool_root(root) / "abc").glob("*.seg")))
    with file.open("r+b") as damaged:
        damaged.seek(HEADER_BYTES + 2 * (RECORD_BYTES + 100) + 30)
        damaged.write(b"?")
    assert contents(crash(root, tmp_path / "after")) == [body(0), body(1), Hole(2, UNREADABLE)]


def test_without_room_events_wait_in_memory_and_move_to_the_disk_when_there_is_some(root: Path, tmp_path: Path) -> None:
    """D2: a full disk is no SIGBUS and no error; when it has room again the spool holds everything that the ring still had."""
    disk = Disk(full=True)
    outbox = outbox_in(root, disk=disk)
    bodies = [body(n) for n in range(10)]
    put(outbox, *bodies)
    assert (outbox.in_memory, outbox.problem) == (10, "[Errno 28] No space left on device")
    assert contents(outbox) == bodies
    disk.full = False
    outbox.prepare(10.0)
    outbox.refill()
    assert (outbox.in_memory, outbox.problem) == (0, "")
    put(outbox, body(10))
    assert contents(crash(root, tmp_path / "after")) == [*bodies, body(10)]


def test_what_the_ring_drops_is_a_hole(root: Path) -> None:
    """D2: the oldest go, and it is counted and declared."""
    outbox = outbox_in(root, total=2 * SEGMENT, memory=5)
    bodies = [body(n) for n in range(200)]
    put(outbox, *bodies)
    found = contents(outbox)
    hole = next(item for item in found if isinstance(item, Hole))
    spooled = found.index(hole)
    assert hole == Hole(194, DROPPED)
    assert outbox.dropped == 195 - spooled
    assert found == [*bodies[:spooled], hole, *bodies[195:]]


def test_acknowledgements_give_a_full_spool_room_again(root: Path) -> None:
    outbox = outbox_in(root, total=2 * SEGMENT, memory=50)
    bodies = [body(n) for n in range(100)]
    put(outbox, *bodies)
    assert outbox.in_memory > 0
    outbox.acknowledge(60)
    outbox.prepare(10.0)
    outbox.refill()
    assert outbox.in_memory == 0
    assert contents(outbox) == bodies[60:]


def test_another_journal_can_have_what_is_still_there_and_is_told_of_the_rest(root: Path) -> None:
    outbox = outbox_in(root)
    put(outbox, *[body(n) for n in range(100)])
    outbox.acknowledge(100)
    first = outbox.take(0, 1, 1)
    assert isinstance(first, Hole)
    assert first.reason == OTHER_JOURNAL
    assert outbox.take(first.last + 1, 1, 1) == [body(first.last + 1)]


def test_a_spool_disappears_when_everything_is_acknowledged_and_shrinks_when_not(root: Path, tmp_path: Path) -> None:
    outbox = outbox_in(root, source="done")
    put(outbox, body(0))
    outbox.acknowledge(1)
    assert outbox.close()
    assert not (spool_root(root) / "done").exists()
    outbox = outbox_in(root)
    put(outbox, body(0))
    assert not outbox.close()
    assert sum(file.stat().st_size for file in (spool_root(root) / "abc").iterdir()) < 400
    assert contents(crash(root, tmp_path / "after")) == [body(0)]


def test_a_failed_creation_leaves_nothing_behind(root: Path) -> None:
    outbox = outbox_in(root, disk=Disk(full=True))
    assert outbox.problem
    assert list(spool_root(root).iterdir()) == []


def test_drafts_of_killed_processes_are_removed_once_they_are_old(root: Path) -> None:
    draft = spool_root(root) / ".new-abc"
    draft.mkdir(parents=True)
    remove_stale_drafts(root)
    assert draft.exists()
    os.utime(draft, (0, 0))
    remove_stale_drafts(root)
    assert not draft.exists()


def test_a_lock_is_held_by_one_at_a_time_and_looking_does_not_take_it(root: Path) -> None:
    outbox = outbox_in(root)
    path = outbox.spool.path
    assert try_lock(path) is None
    assert try_lock(path, shared=True) is None
    put(outbox, body(0))
    outbox.close()
    lock = try_lock(path)
    assert lock is not None
    unlock(lock)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 100])
def test_a_directory_that_is_no_spool_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta").write_bytes(content)
    with pytest.raises(SpoolError, match="no readable spool"):
        read_meta(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 900)),
            st.tuples(st.just("acknowledge"), st.integers(0, 30)),
            st.tuples(st.just("full"), st.booleans()),
            st.tuples(st.just("crash"), st.just(0)),
        ),
        max_size=80,
    )
)
def test_an_outbox_keeps_what_it_took_whatever_happens(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]) -> None:
    """D2, D3: for any history of events, acknowledgements and full disks, all unacknowledged events are there or declared, in order."""
    root = tmp_path_factory.mktemp("history")
    disk = Disk()
    outbox = outbox_in(root, total=4 * SEGMENT, memory=5, disk=disk)
    written: list[bytes] = []
    now = 0.0
    for count, (action, amount) in enumerate(actions):
        now += 10.0
        if action == "put":
            written.append(body(len(written), amount + 10))
            outbox.append(outbox.next, written[-1])
        elif action == "acknowledge":
            outbox.acknowledge(outbox.acknowledged + amount)
        elif action == "full":
            disk.full = bool(amount)
        outbox.prepare(now)
        while outbox.refill():
            pass
        seen = [outbox] if action != "crash" else [outbox, crash(root, root / str(count))] if outbox.spool.path.exists() else []
        for box in seen:
            seq = box.acknowledged
            assert box.next == len(written)
            for item in contents(box):
                if isinstance(item, Hole):
                    assert item.last >= seq
                    seq = item.last + 1
                else:
                    assert item == written[seq]
                    seq += 1
            assert seq == max(len(written), box.acknowledged)
        if action == "crash" and len(seen) == 2:
            seen[1].close()
    outbox.close()
