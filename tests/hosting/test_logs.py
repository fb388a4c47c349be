"""Kept logs stay within their bounds, lose nothing in the middle, and are shown whole while they are written and rotated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.config import BusConfig
from trainbus.bus.hosting.kept import following, last_lines
from trainbus.bus.hosting.rotation import RotatingFile, parts, rotated
from trainbus.bus.hosting.upkeep import LEFTOVER_SECONDS, tidy


def written(path: Path) -> list[bytes]:
    return b"".join(part.read_bytes() for part in parts(path)).splitlines()


def numbers(first: int, last: int) -> list[bytes]:
    return [b"line %d" % number for number in range(first, last)]


@pytest.mark.parametrize("files", [1, 2, 5])
def test_a_rotated_log_holds_its_newest_lines_without_a_gap(tmp_path, files):
    """At most so many files of so many bytes, and one line after the other over all of them."""
    log = RotatingFile(tmp_path / "logs" / "p.log", size=400, files=files)
    for line in numbers(0, 500):
        log.write(line + b"\n")
    log.close()
    kept = written(tmp_path / "logs" / "p.log")
    assert kept == numbers(500 - len(kept), 500)
    assert len(parts(tmp_path / "logs" / "p.log")) == files == len(list((tmp_path / "logs").iterdir()))
    assert all(part.stat().st_size <= 400 for part in parts(tmp_path / "logs" / "p.log"))
    assert log.errors == 0


def test_more_than_nine_files_are_read_in_their_order(tmp_path):
    """.10 comes before .9."""
    log = RotatingFile(tmp_path / "p.log", size=10, files=13)
    for line in numbers(0, 12):
        log.write(line + b"\n")
    log.close()
    assert written(tmp_path / "p.log") == numbers(0, 12)


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    """A number is missing then; the next rotation and every reader go on."""
    log = RotatingFile(tmp_path / "p.log", size=20, files=5)
    for line in numbers(0, 6):
        log.write(line + b"\n")
    log.close()
    rotated(tmp_path / "p.log", 2).rename(rotated(tmp_path / "p.log", 3))
    rotated(tmp_path / "p.log", 1).rename(rotated(tmp_path / "p.log", 2))
    before = written(tmp_path / "p.log")
    log.write(b"line 6\n")
    log.write(b"line 7\n")
    log.close()
    assert written(tmp_path / "p.log") == [*before, *numbers(6, 8)]


def test_a_log_that_somebody_deletes_is_begun_anew(tmp_path):
    """What comes is not written into a file that nobody can find."""
    log = RotatingFile(tmp_path / "p.log", size=1_000, files=2)
    log.write(b"gone\n")
    (tmp_path / "p.log").unlink()
    log.write(b"here\n")
    log.close()
    assert written(tmp_path / "p.log") == [b"here"]


def test_a_full_disk_costs_what_was_to_be_kept_and_nothing_else():
    """It is counted."""
    log = RotatingFile(Path("/dev/full"), size=100, files=2)
    log.write(b"words")
    assert log.errors == 1
    log.close()


def test_the_last_lines_reach_into_rotated_files(tmp_path):
    """As many as are asked for; a line that is still being written is not among them."""
    log = RotatingFile(tmp_path / "p.log", size=60, files=9)
    for line in numbers(0, 30):
        log.write(line + b"\n")
    log.write(b"ha")
    lines, newest = last_lines(tmp_path / "p.log", 20)
    assert [line.rstrip() for line in lines] == numbers(10, 30)
    assert newest.read() == b"ha"
    newest.close()
    log.close()
    assert last_lines(tmp_path / "none.log", 5) == ([], None)


@pytest.mark.timeout(200)
def test_who_follows_a_log_gets_every_line_once_however_often_it_is_rotated(tmp_path):
    """The reader pauses only when it has read everything that is there; the writer goes through many files meanwhile."""
    path = tmp_path / "p.log"
    log = RotatingFile(path, size=500, files=400)
    total = 5_000

    def write() -> None:
        for line in numbers(1, total):
            log.write(line + b"\n")
        log.close()

    writer = threading.Thread(target=write)
    log.write(b"line 0\n")
    first, newest = last_lines(path, 10)
    reading = following(path, newest, lost=lambda: pytest.fail("nothing may be lost"), pause=lambda _: None)
    writer.start()
    got = [next(reading) for _ in range(1, total)]
    writer.join()
    assert [*(line.rstrip() for line in first), *got] == numbers(0, total)
    assert len(parts(path)) > 50


def test_a_reader_that_is_too_slow_is_told_and_goes_on(tmp_path):
    """What it has open it reads to the end, and begins again at the oldest line that is left."""
    path, told = tmp_path / "p.log", []
    log = RotatingFile(path, size=30, files=2)
    log.write(b"line 0\n")
    _, newest = last_lines(path, 0)
    for line in numbers(1, 40):
        log.write(line + b"\n")
    reading = following(path, newest, lost=lambda: told.append(1), pause=lambda _: pytest.fail("there is something to read"))
    expected = [*numbers(1, 4), *written(path)]
    assert [next(reading) for _ in expected] == expected
    assert told == [1]
    log.close()


def old(path: Path, content: bytes, seconds: float = 2 * LEFTOVER_SECONDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - seconds, time.time() - seconds))
    return path


def test_a_home_that_has_grown_is_brought_within_its_bounds(tmp_path):
    """L-35, A-52: the oldest logs go first, what is being written stays, leftovers of kills go, and a second look finds nothing."""
    logs = [old(tmp_path / "logs" / "exec" / f"run-{day}.log", b"x" * 1_000, seconds=86_400.0 * (10 - day)) for day in range(10)]
    oldest = old(tmp_path / "logs" / "anomaly.log.3", b"x" * 1_000, seconds=86_400.0 * 30)
    leftover = old(tmp_path / ".bus.json.abc123", b"{}")
    fresh = old(tmp_path / ".up.json.abc124", b"{}", seconds=1.0)
    keys = old(tmp_path / "keys" / "broker.json", b"{}")
    living = RotatingFile(logs[0], size=10_000, files=2)  # the oldest run is still at work, and says little
    living.write(b"")
    settings = BusConfig(logs_bytes=5_000)
    assert {one.path for one in tidy(tmp_path, settings, dry_run=True)} == {str(path) for path in (leftover, oldest, *logs[1:6])}
    assert leftover.exists()
    removed = tidy(tmp_path, settings)
    assert [one.path for one in removed] == [str(path) for path in (leftover, oldest, *logs[1:6])]
    assert all(path.exists() for path in (logs[0], *logs[6:], fresh, keys))
    assert tidy(tmp_path, settings) == []
    living.close()
    assert [one.path for one in tidy(tmp_path, BusConfig(logs_bytes=4_000))] == [str(logs[0])]


def test_tidy_is_fit_for_cron(trainbus_home):
    """A-136: it asks nothing, ends with 0, and says as JSON what it did; the second time nothing."""
    old(trainbus_home / "logs" / "exec" / "r.log", b"x" * 100)
    done = trainbus("tidy", "--set", "bus.logs_bytes=10", "--json", stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert [one["bytes"] for one in json.loads(done.stdout)["removed"]] == [100]
    again = trainbus("tidy", "--set", "bus.logs_bytes=10", stdin=subprocess.DEVNULL)
    assert (again.returncode, again.stdout.strip()) == (0, "Everything is within its bounds.")


def test_logs_are_listed_and_shown_by_name_and_by_the_beginning_of_a_run(trainbus_home):
    """With the nearest name where there is none; control characters of a child reach no terminal."""
    old(trainbus_home / "logs" / "broker.log.1", b"first\n")
    old(trainbus_home / "logs" / "broker.log", b"second\nbell\x07\nhalf")
    old(trainbus_home / "logs" / "exec" / "train-20261121-ab.log", b"loss 1.0\n")
    listed = json.loads(trainbus("logs", "--json").stdout)
    assert [(log["name"], log["files"], log["run"]) for log in listed] == [
        ("broker", 2, ""),
        ("train-20261121-ab", 1, "train-20261121-ab"),
    ]
    assert trainbus("logs", "broker", "--all").stdout.splitlines() == ["first", "second", "bell\N{REPLACEMENT CHARACTER}", "half"]
    assert trainbus("logs", "broker", "-n", "1").stdout.splitlines() == ["bell\N{REPLACEMENT CHARACTER}", "half"]
    assert trainbus("logs", "train-2026").stdout == "loss 1.0\n"
    missing = trainbus("logs", "brooker")
    assert missing.returncode == 4
    assert "Did you mean `broker`?" in missing.stderr


def test_follow_shows_what_comes(trainbus_home):
    """The command goes on through a rotation until it is interrupted."""
    log = RotatingFile(trainbus_home / "logs" / "web.log", size=30, files=3)
    log.write(b"line 0\n")
    command = [sys.executable, "-m", "trainbus", "logs", "web", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "line 0\n"
        for number in range(1, 9):
            log.write(b"line %d\n" % number)
            assert process.stdout.readline() == f"line {number}\n"
        process.terminate()
    log.close()
    wait_for(lambda: process.poll() is not None)


def test_a_detached_supervisor_writes_no_file_that_nobody_rotates(site, trainbus_home):
    """What a plugin prints is in its own log, not again in up.log; the supervisor brings the home within its bounds at its start."""
    site.install("chatty", "class P:\n    @hookimpl\n    def start(self, context): print('words of a plugin', flush=True)\n")
    crowded = old(trainbus_home / "logs" / "exec" / "r.log", b"x" * 5_000)
    up = trainbus("up", "--detach", "--plugins", "chatty", "--set", "bus.logs_bytes=4000")
    try:
        assert up.returncode == 0, up.stderr
        wait_for(lambda: "words of a plugin" in trainbus("logs", "chatty").stdout, 60.0)
        wait_for(lambda: f"deleted {crowded}" in trainbus("logs", "trainbus").stdout, 60.0)
        assert not crowded.exists()
        assert "words of a plugin" not in (trainbus_home / "logs" / "up.log").read_text()
    finally:
        trainbus("down")
