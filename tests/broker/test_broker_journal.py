"""The journal file: what is refused and left untouched, one holder (D10), failures that pass (D8, L-12)."""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from tests.broker.broker_process import fill, small_disk
from trainbus.bus.broker import schema
from trainbus.bus.broker.batch import Batch
from trainbus.bus.broker.journal import Journal
from trainbus.bus.broker.records import CursorRecord
from trainbus.errors import JournalError


@pytest.fixture
def path(root):
    root.mkdir(parents=True)
    return root / "journal.db"


def batch(first: int, count: int = 1, size: int = 200) -> Batch:
    rows = [(offset, 1, 1, 1, offset, offset, bytes(size)) for offset in range(first, first + count)]
    change = ("consumers", "c", CursorRecord(consumer="c", offset=first, updated=0))
    return Batch(head=first + count - 1, rows=rows, changes=[change])


def offsets(path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [offset for (offset,) in connection.execute("SELECT offset FROM events ORDER BY offset")]
    finally:
        connection.close()


def test_a_new_journal_is_private_and_has_an_id_of_its_own(path, tmp_path):
    journals = [Journal(path), Journal(tmp_path / "other" / "journal.db")]
    assert journals[0].contents.journal != journals[1].contents.journal
    assert [journal.contents.head for journal in journals] == [-1, -1]
    assert path.stat().st_mode & 0o777 == 0o600
    for journal in journals:
        journal.close()


@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 100, 511, 512, 1_300])
def test_batches_of_every_size_are_written_whole(path, count):
    """Rows go in by statements of 512, 64, 8 and 1."""
    journal = Journal(path)
    journal.append(batch(0, count))
    journal.append(batch(count, 3))
    journal.close()
    assert offsets(path) == list(range(count + 3))


def test_what_was_appended_is_there_after_reopening(path):
    journal = Journal(path)
    identity = journal.contents.journal
    journal.append(batch(0, 5))
    journal.close()
    journal = Journal(path)
    assert (journal.contents.journal, journal.contents.head) == (identity, 4)
    assert journal.contents.tables.cursors.get("c") == CursorRecord(consumer="c", offset=0, updated=0)
    journal.close()


# --- what is refused ------------------------------------------------------------------------------------


def refused(path) -> JournalError:
    """Opening fails, and changes neither the file nor what lies beside it."""
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        Journal(path)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} <= {"journal.db", "journal.db.lock"}
    assert caught.value.hint
    assert str(path) in caught.value.problem
    return caught.value


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 8192], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_database_is_refused(path, content):
    path.write_bytes(content)
    assert "no SQLite database" in refused(path).problem


def test_somebody_elses_database_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos(id)")
    connection.commit()
    connection.close()
    assert "no trainbus journal" in refused(path).problem


def test_a_journal_of_a_newer_version_is_refused_with_both_versions(path):
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={schema.SCHEMA + 6}")
    connection.close()
    error = refused(path)
    assert f"version {schema.SCHEMA + 6}" in error.problem
    assert f"up to {schema.SCHEMA}" in error.problem
    assert (error.facts["found"], error.facts["allowed"]) == (schema.SCHEMA + 6, schema.SCHEMA)


def test_a_damaged_journal_is_refused(path):
    journal = Journal(path)
    journal.append(batch(0, 200))
    journal.close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(8_000))
    assert "damaged" in refused(path).problem


def test_a_truncated_journal_is_refused(path):
    journal = Journal(path)
    journal.append(batch(0, 2_000))
    journal.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(JournalError, match="damaged"):
        Journal(path)


def test_a_folder_that_can_not_be_written_is_a_clear_error(path, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((JournalError, OSError)):
        Journal(blocked / "journal.db")


def test_a_torn_write_ahead_log_loses_only_what_was_torn(path, tmp_path):
    """A power cut in the middle of a commit: that commit never happened, those before it did."""
    journal = Journal(path)
    for first in range(0, 30, 10):
        journal.append(batch(first, 10))
    copied = tmp_path / "copy" / "journal.db"
    copied.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copied}{suffix}")
    journal.close()
    log = copied.with_name("journal.db-wal")
    os.truncate(log, log.stat().st_size - 100)
    torn = Journal(copied)
    assert torn.contents.head == 19
    torn.append(batch(20, 5))
    torn.close()
    assert offsets(copied) == list(range(25))


def test_d10_a_second_broker_on_the_journal_is_refused_with_the_pid_of_the_first(path):
    journal = Journal(path)
    with pytest.raises(JournalError) as caught:
        Journal(path)
    assert f"process {os.getpid()}" in caught.value.problem
    assert caught.value.facts["pid"] == os.getpid()
    journal.append(batch(0))
    journal.close()
    Journal(path).close()


def test_d10_a_lock_left_by_a_dead_process_stops_nobody(path):
    path.with_name("journal.db.lock").write_text("999999\n")
    Journal(path).close()


def test_a_refused_journal_leaves_no_lock_behind(path):
    path.write_bytes(b"hello")
    with pytest.raises(JournalError):
        Journal(path)
    path.unlink()
    Journal(path).close()


# --- failures that pass -----------------------------------------------------------------------------------


def test_a_batch_is_written_whole_or_not_at_all(path):
    """The last row collides with one that is there: nothing of the batch is, and the journal goes on."""
    journal = Journal(path)
    journal.append(batch(0, 10))
    bad = batch(10, 5)
    bad.rows[-1] = (3, *bad.rows[-1][1:])
    with pytest.raises(JournalError, match="UNIQUE"):
        journal.append(bad)
    journal.append(batch(10, 5))
    assert journal.stats().failures == 1
    journal.close()
    assert offsets(path) == list(range(15))


def test_d3_the_file_itself_refuses_a_source_and_seq_twice(path):
    """Exactly once is a property of the journal, not only of the code that fills it."""
    journal = Journal(path)
    journal.append(batch(0, 10))
    again = batch(10, 1)
    again.rows[0] = (10, 1, 1, 1, 4, 0, b"")
    with pytest.raises(JournalError, match=r"events\.source, events\.seq"):
        journal.append(again)
    journal.close()


def test_a_number_beyond_64_bits_fails_its_batch_only(path):
    journal = Journal(path)
    with pytest.raises(JournalError):
        journal.append(Batch(head=0, rows=[(0, 1, 1, 1, 0, 2**64, b"")]))
    journal.append(batch(0))
    journal.close()


def test_l12_a_locked_database_fails_the_append_and_works_once_it_is_free(path, monkeypatch):
    """Somebody looks at the journal with a shell that holds a write lock."""
    monkeypatch.setattr("trainbus.bus.broker.journal.BUSY_TIMEOUT", 0.05)
    journal = Journal(path)
    journal.append(batch(0))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked") as caught:
        journal.append(batch(1))
    assert "Another process" in caught.value.hint
    other.execute("ROLLBACK")
    other.close()
    journal.append(batch(1))
    journal.close()
    assert offsets(path) == [0, 1]


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB."""
    with small_disk(tmp_path / "disk", 4) as disk:
        yield disk


def append_until_it_fails(journal: Journal, first: int) -> tuple[int, JournalError]:
    """Batches of 500; the offset after the last one that was committed, and the error."""
    while True:
        try:
            journal.append(batch(first, 500))
        except JournalError as error:
            return first, error
        first += 500


def test_d8_a_full_disk_fails_the_append_and_once_there_is_space_it_works_again(disk):
    """Nothing of the failed batches is there, everything of the others."""
    journal = Journal(disk / "journal.db")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    committed, error = append_until_it_fails(journal, 0)
    assert committed > 0
    assert "full" in error.problem
    assert "disk space" in error.hint
    assert append_until_it_fails(journal, committed)[0] == committed
    ballast.unlink()
    journal.append(batch(committed, 500))
    journal.close()
    assert offsets(disk / "journal.db") == list(range(committed + 500))


def test_a_journal_is_not_half_created_on_a_full_disk(disk):
    fill(disk / "ballast")
    with pytest.raises(JournalError, match="can't be created"):
        Journal(disk / "journal.db")
    assert not (disk / "journal.db").exists()
    (disk / "ballast").unlink()
    Journal(disk / "journal.db").close()
