"""A really full disk (a small tmpfs) under spool, journal and everything else; and what comes back when there is room again."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from tests.broker.broker_process import fill, small_disk
from tests.faults.storm import RECORDER
from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.bus.hosting.instance import read_running

TALK = """
    @hookimpl
    def every(self, context):
        print("x" * 500, flush=True)
        return 0.002
"""
SMALL = {"spool_segment_bytes": 1_048_576, "memory_events": 500}


class SmallDisk:
    """The home of the storm on a file system of its own."""

    def __init__(self, folder):
        self.ballast = folder / "ballast"

    def fill(self, *pids):
        """From now on nobody can write anything new there."""
        fill(self.ballast)

    def free(self, *pids):
        """There is room again."""
        self.ballast.unlink()


class NoFileMayGrow:
    """In place of a full disk where mounting is not allowed: the kernel refuses these processes every write to a file."""

    def fill(self, *pids):
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free(self, *pids):
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def disk(storm):
    """24 MB; the test is skipped where mounting is not allowed."""
    with small_disk(storm.root, 24) as folder:
        yield SmallDisk(folder)
        storm.close()


@pytest.fixture(params=["small disk", pytest.param("no file may grow", marks=pytest.mark.slow)])
def any_disk(request):
    """A small disk or what stands in for one."""
    return request.getfixturevalue("disk") if request.param == "small disk" else NoFileMayGrow()


def test_d2_a_full_disk_under_the_spool_costs_what_a_gap_event_names(storm, any_disk):
    """D2: no spool can be made; the memory ring drops the oldest, says so once, and the gap event names exactly what is missing."""
    any_disk.fill()
    trainer = storm.trainer(*(["--full-disk"] if isinstance(any_disk, NoFileMayGrow) else []), **SMALL)
    trainer.wait_for_returned(3_000)
    any_disk.free(trainer.process.pid)
    storm.up("alpha", bus=SMALL)
    storm.finish(trainer)
    findings = storm.judge(at_least=3_000)
    assert 0 < findings.explained < findings.published
    [gap] = storm.events("gap")
    assert (gap.missing_source, gap.last_seq - gap.first_seq + 1) == (trainer.board.source, findings.explained)
    assert "no room" in gap.reason
    if isinstance(any_disk, SmallDisk):  # with the stand-in it can't print to its file either
        assert trainer.words().count("events can't be spooled") == 1


def test_d2_once_there_is_room_again_kill_9_loses_nothing_that_came_later(storm, disk):
    """D2, D4: the ring moves to the spool as soon as it can; what was dropped before is a gap, also when a drainer finds the spool."""
    disk.fill()
    trainer = storm.trainer(**SMALL)
    trainer.wait_for_returned(1_500)
    disk.free()
    wait_for(lambda: list((storm.root / "spool").glob("*/*.seg")), what="a spool on the disk that has room again")
    before_the_spool = trainer.board.returned
    trainer.wait_for_more(1_000)
    trainer.kill()
    storm.up("alpha", bus=SMALL)
    wait_for(lambda: max(storm.seqs(trainer.board.source), default=0) >= trainer.board.returned - 1, what="the drained spool")
    findings = storm.judge(at_least=2_500)
    assert 0 < findings.explained <= before_the_spool


def test_d8_a_full_disk_under_the_journal_stops_acknowledgement_and_loses_nothing(storm, any_disk, tmp_path):
    """D8: the trainer's spool lies elsewhere; status tells that nothing is committed, and why; with room again all arrives."""
    storm.up("alpha")
    with Client(root=storm.root) as client:
        router = client.status().router
        trainer = storm.trainer("--router", router, root=tmp_path / "elsewhere", **SMALL)
        trainer.wait_for_returned(500)
        any_disk.fill(storm.broker_pid())
        # the journal may still fill what its files have allocated; then it stands while the trainer goes on
        wait_for(lambda: client.status().head < trainer.board.returned - 2_000, 60.0, what="a journal that 2,000 events can't reach")
        status = client.status()
        assert status.commit_failures
        assert "full" in status.last_error or "I/O" in status.last_error
        any_disk.free(storm.broker_pid())
    storm.finish(trainer)
    assert storm.judge(at_least=2_500).explained == 0


def test_d2_d8_a_disk_that_everything_shares_may_fill_up_under_a_running_system(storm, disk):
    """D2, D8: journal, spools, logs and the supervisor's own account at once; a plugin dies meanwhile and comes back.

    Nobody ends because of it; the trainer has a spool already and goes on in it.
    """
    storm.up("alpha", "beta", bus=SMALL)
    trainer = storm.trainer(**SMALL)
    trainer.wait_for_returned(500)
    storm.wait_for_journal(trainer)
    disk.fill()
    with Client(root=storm.root) as client:
        wait_for(lambda: client.status().commit_failures, what="a failed commit")
    pid = storm.wait_for_state("alpha", "running").pid
    os.kill(pid, signal.SIGKILL)
    trainer.wait_for_more(1_000)
    assert storm.process.poll() is None
    disk.free()
    storm.wait_for_state("alpha", "running", not_pid=pid)
    storm.finish(trainer)
    assert storm.judge(at_least=1_500).explained == 0


@pytest.mark.slow
def test_d2_d8_a_detached_system_may_lose_its_own_log_and_nothing_else(storm, disk, site):
    """D2, D8: with --detach the supervisor prints what a talkative plugin says into a file on the full disk.

    It goes on reading the plugin's output (which would hang when nobody did) and looking after broker and plugins.
    """
    site.install("alpha", RECORDER + TALK)
    storm.configure("alpha", bus=SMALL)
    up = trainbus("up", "--detach", "--config", str(storm.config))
    assert up.returncode == 0, up.stderr
    trainer = storm.trainer(**SMALL)
    trainer.wait_for_returned(500)
    storm.wait_for_journal(trainer)
    supervisor, broker = read_running(storm.root).pid, storm.broker_pid()
    disk.fill()
    pid = storm.wait_for_state("alpha", "running").pid
    os.kill(broker, signal.SIGKILL)
    trainer.wait_for_more(3_000)
    disk.free()
    wait_for(lambda: storm.broker_pid() != broker, what="another broker")
    storm.finish(trainer)
    assert storm.judge(at_least=3_500).explained == 0
    assert storm.wait_for_state("alpha", "running").pid == pid
    assert read_running(storm.root).pid == supervisor
    assert trainbus("down").returncode == 0


def test_d2_d8_the_broker_dies_on_a_full_disk_and_comes_back_when_there_is_room(storm, disk):
    """D2, D8: it can't even write its connection file; the supervisor goes on trying, and nothing that was acknowledged is lost."""
    storm.up("alpha", bus=SMALL)
    trainer = storm.trainer(**SMALL)
    trainer.wait_for_returned(500)
    storm.wait_for_journal(trainer)
    disk.fill()
    broker = storm.broker_pid()
    os.kill(broker, signal.SIGKILL)
    wait_for(lambda: storm.words().count("trainbus | broker: ") >= 3, what="a second and third death: it can't start on this disk")
    trainer.wait_for_more(1_000)
    assert storm.process.poll() is None
    assert "Traceback" not in storm.words()
    assert "No space left" in storm.words()
    disk.free()
    wait_for(lambda: storm.broker_pid() != broker, what="another broker")
    storm.finish(trainer)
    assert storm.judge(at_least=1_500).explained == 0
