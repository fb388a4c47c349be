"""Rows: disks that are full, and a journal that can't be committed to."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.broker.broker_process import fill, small_disk
from tests.faults.matrix.row import row
from tests.faults.matrix.stage import BUS, PATIENCE, SMALL_SEGMENT, Stage
from tests.support import wait_for
from trainbus.bus.client import Client

SMALL = {"spool_segment_bytes": 1_048_576, "memory_events": 500}
MEGABYTES = 24
LOCK_SECONDS = 3.0
"""Longer than the broker waits for somebody else's lock on its database."""


@row(
    "disk-spool",
    "full disk under the spool",
    "D1 D2 D3",
    gaps=True,
    note="no spool can be made: the memory ring drops the oldest, and the gap event names exactly these",
)
def disk_spool(stage: Stage) -> None:
    with small_disk(stage.root, MEGABYTES) as folder:
        fill(folder / "ballast")
        trainer = stage.train(**SMALL)
        trainer.wait_for_returned(1_000 + stage.chance.randrange(1_000))
        (folder / "ballast").unlink()
        stage.up("alpha", "beta", bus={**BUS, **SMALL})
        stage.mended()
        stage.recovered()
        _end(stage)


@row("disk-journal", "full disk under the journal", "D2 D8")
def disk_journal(stage: Stage) -> None:
    """The spool lies elsewhere. Nothing is acknowledged; `trainbus status` says why; with room again all arrives."""
    with small_disk(stage.root, MEGABYTES) as folder:
        stage.up("alpha", "beta", bus=BUS)
        with Client(root=stage.root) as client:
            trainer = stage.train("--router", client.status().router, root=stage.folder / "elsewhere", **SMALL)
            stage.moment(trainer)
            fill(folder / "ballast")
            wait_for(lambda: client.status().commit_failures, PATIENCE, what="a commit that fails")
            stage.moment(trainer)
            assert client.status().last_error
        (folder / "ballast").unlink()
        stage.mended()
        stage.recovered()
        _end(stage)


@row("disk-all", "full disk under journal, spools and logs at once", "D1 D2 D8")
def disk_all(stage: Stage) -> None:
    """A plugin or the broker dies meanwhile; the trainer has a spool already and goes on in it."""
    with small_disk(stage.root, MEGABYTES) as folder:
        stage.up("alpha", "beta", bus={**BUS, **SMALL})
        trainer = stage.train(**SMALL)
        stage.moment(trainer)
        stage.wait_for_journal(trainer)
        fill(folder / "ballast")
        with Client(root=stage.root) as client:
            wait_for(lambda: client.status().commit_failures, PATIENCE, what="a commit that fails")
        broker = stage.broker_pid()
        dies = stage.chance.choice(("alpha", "broker"))
        stage.strike(broker if dies == "broker" else stage.wait_for_state("alpha", "running").pid)
        stage.moment(trainer)
        (folder / "ballast").unlink()
        stage.mended()
        stage.recovered()
        _end(stage)


@row(
    "disk-checkpoints",
    "full disk under the checkpoint root",
    "D1 D6",
    note="the retention plugin makes room; what was announced as complete was whole",
)
def disk_checkpoints(stage: Stage) -> None:
    """Checkpoints of 2 MB on a disk of 24: saving fails until retention, with a floor of free disk, has made room again."""
    out = stage.folder / "checkpoints"
    with small_disk(out, MEGABYTES) as folder:
        settings = {"dry_run": False, "keep_newest": 3, "min_age": 0, "interval": 0.2, "trash_grace": 0.1, "verify": False}
        fill(folder / "ballast")
        stage.up("alpha", "beta", "retention", bus=BUS, retention=settings)
        trainer = stage.train("--checkpoints", str(out))
        trainer.wait_for_returned(300)
        assert not stage.events("checkpoint"), "saved on a full disk"
        (folder / "ballast").unlink()
        stage.mended()

        def deleted() -> int:
            return sum(event.state == "deleted" for event in stage.events("checkpoint"))

        wait_for(lambda: deleted() > MEGABYTES // 2, PATIENCE, what="more checkpoints than fit onto the disk at once")
        stage.recovered()
        _end(stage)


@row("commit-failure", "commits fail: somebody holds the journal's database, and the broker may die meanwhile", "D3 D8")
def commit_failure(stage: Stage) -> None:
    trainer = stage.system(spool_segment_bytes=SMALL_SEGMENT)  # what was acknowledged too early is soon written over
    with contextlib.closing(sqlite3.connect(stage.root / "journal.db", isolation_level=None)) as foreign:
        foreign.execute("PRAGMA busy_timeout=20000")
        foreign.execute("BEGIN IMMEDIATE")
        before = stage.broker_pid()
        if stage.chance.random() < 0.5:
            trainer.wait_for_seconds(stage.chance.uniform(0.1, 1.5))
            stage.strike(before)
            stage.mended()
            foreign.execute("ROLLBACK")
            stage.new_broker(before)
        else:
            with Client(root=stage.root) as client:
                wait_for(lambda: client.status().commit_failures, PATIENCE, what="a commit that fails")
            foreign.execute("ROLLBACK")
            stage.mended()
    stage.recovered()
    stage.moment(trainer)


def _end(stage: Stage) -> None:
    """Judged while the disk is still there; the figures stay."""
    stage.finish_all()
    stage.keep_judgement()
    stage.stop()
