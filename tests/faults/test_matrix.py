"""The fault matrix itself: it plays, it remembers, it fails when it should; each row once; and the mutants that it must catch."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.conftest import ROOT
from tests.faults import soak
from tests.faults.board import Board
from tests.faults.matrix import mutants, report
from tests.faults.matrix.row import ROWS, Round
from tests.faults.matrix.rows import load
from tests.faults.proxy import Proxy

load()
MUTANT_ROUNDS = 4


def matrix(place: Path, *options: str, timeout: float = 170.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.matrix", "--place", str(place), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.timeout(180)
def test_d2_d3_d4_d6_a_round_of_two_rows_is_played_judged_and_remembered(tmp_path):
    """D2, D3, D4, D6: kill -9 of a trainer and of the broker in one round each. A second call plays nothing anew."""
    played = matrix(tmp_path, "--rows", "kill-trainer,kill-broker", "--rounds", "1")
    assert played.returncode == 0, played.stdout + played.stderr
    found = msgspec.json.decode((tmp_path / "matrix.json").read_bytes(), type=report.Matrix)
    for line in found.lines:
        assert (line.rounds, line.broken, line.lost, line.duplicated, line.disordered, line.explained) == (1, 0, 0, 0, 0, 0)
        assert line.published > 50
        assert line.delivered > line.published
        assert line.recovery is not None
        assert line.longest > 0
        assert line.control > 0
    again = matrix(tmp_path, "--rows", "kill-*er", "--rounds", "1")
    assert again.returncode == 2
    again = matrix(tmp_path, "--rows", "kill-broker", "--rounds", "1")
    assert again.returncode == 0
    assert "1 rounds were played before" in again.stderr


def test_a_broken_round_is_counted_and_named():
    """The table says which row and how often; a skipped round is not a kept one."""
    rounds = [
        Round(row="kill-broker", seed=1, number=0, version="", published=10, journaled=9, lost=1, problem="lost", own=0.002, late=1),
        Round(row="kill-broker", seed=1, number=1, version="", published=10, journaled=10, recovery=2.0),
        Round(row="disk-spool", seed=1, number=0, version="", skipped="mounting is not allowed here"),
    ]
    found = report.matrix([ROWS["kill-broker"], ROWS["disk-spool"]], rounds, seed=1)
    broker, disk = found.lines
    assert (found.broken, found.late, broker.broken, broker.lost, broker.recovery) == (1, 1, 1, 1, (2.0, 2.0))
    assert (disk.rounds, disk.skipped) == (0, 1)
    assert "BROKEN 1" in report.text(found)
    assert "mounting is not allowed here" in report.text(found)


def test_a_late_call_is_told_from_one_that_was_interrupted_and_says_whether_it_waited(tmp_path):
    """Only what no other process had the processor for counts; what waited, for a lock or for a page, is counted beside it."""
    board = Board(tmp_path / "board")

    def after(**changed):
        return SimpleNamespace(**{"ru_nivcsw": 1, "ru_nvcsw": 2, "ru_minflt": 3, "ru_majflt": 4, **changed})

    before = after()
    board.add_call(500_000, before, before)
    board.add_call(2_000_000, before, before)
    board.add_call(3_000_000, before, after(ru_nvcsw=-1))
    board.add_call(4_000_000, before, after(ru_majflt=-1))
    board.add_call(9_000_000, before, after(ru_nivcsw=-1, ru_nvcsw=-1))
    assert (board.longest, board.own, board.late, board.waited) == (0.009, 0.004, 3, 2)
    rounds = [Round(row="kill-broker", seed=1, number=n, version="", published=1, late=3, waited=2) for n in range(2)]
    assert "interrupted: 6, of which 4 waited" in report.summary(report.matrix([ROWS["kill-broker"]], rounds, seed=1))
    rounds[0].waited = None
    assert "of which" not in report.summary(report.matrix([ROWS["kill-broker"]], rounds, seed=1))


def test_every_row_names_promises_and_every_promise_has_a_row():
    """D1 to D10."""
    named = {clause for row in ROWS.values() for clause in row.clauses.split()}
    assert named == {f"D{number}" for number in range(1, 11)}


def test_the_page_of_guarantees_lists_every_row():
    """docs/guarantees.md is generated from the decorators; rows that loops register count as well."""
    page = (ROOT / "docs" / "guarantees.md").read_text()
    assert [name for name in ROWS if f"`{name}`" not in page] == []


@pytest.fixture
def echo():
    """A server that sends back what it gets, behind a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def answer(peer):
            with peer:
                try:
                    while chunk := peer.recv(4096):
                        peer.sendall(chunk)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        proxy = Proxy(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        yield proxy
        proxy.close()


def connect(proxy: Proxy) -> socket.socket:
    place = urlsplit(proxy.address)
    peer = socket.create_connection((place.hostname, place.port), 20)
    peer.settimeout(90)
    return peer


def test_the_proxy_passes_cuts_and_swallows(echo):
    """A cut ends a line; in a black hole it stays open and dead, also later; a new one lives."""
    with connect(echo) as peer:
        peer.sendall(b"one")
        assert peer.recv(10) == b"one"
        echo.become("cut")
        with contextlib.suppress(ConnectionError):
            assert peer.recv(10) == b""
    echo.become("whole")
    with connect(echo) as swallowed:
        swallowed.sendall(b"two")
        assert swallowed.recv(10) == b"two"
        echo.become("black hole")
        echo.become("whole")
        swallowed.sendall(b"three")
        with connect(echo) as peer:
            peer.sendall(b"four")
            assert peer.recv(10) == b"four"
        swallowed.setblocking(False)
        with pytest.raises(BlockingIOError):
            swallowed.recv(10)


def test_a_soak_that_grows_is_told():
    """Memory, descriptors and bytes of the journal for an event."""

    def looks(growth: float) -> list[soak.Look]:
        return [
            soak.Look(
                second=float(number),
                events=100 * number,
                journal=(number + growth * number**2) / 100,
                memory={"broker": 30.0 + growth * number},
                files={"broker": 20 + int(growth * number)},
            )
            for number in range(41)
        ]

    assert soak.growth(looks(0.0)) == []
    assert [problem.partition(":")[0] for problem in soak.growth(looks(1.0))] == ["broker", "broker", "journal"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", list(ROWS))
def test_d1_to_d10_every_row_of_the_matrix_once(name, tmp_path):
    """D1, D2, D3, D4, D5, D6, D7, D8, D9, D10: `make faults` plays each row twenty times."""
    played = matrix(tmp_path, "--rows", name, "--rounds", "1", timeout=390.0)
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(mutants.MUTANTS))
def test_the_matrix_fails_for_a_trainbus_that_is_broken_on_purpose(name, tmp_path):
    """No acknowledgement, no dedup, a cursor before its hook, no spool: each is found within a few rounds of one row."""
    played = matrix(tmp_path, "--rows", mutants.CAUGHT_BY[name], "--rounds", str(MUTANT_ROUNDS), "--mutant", name, timeout=590.0)
    assert played.returncode == 1, played.stdout + played.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_d1_to_d8_a_short_soak_loses_nothing(tmp_path):
    """D2, D3, D5, D6: a minute of it; the hour is `make soak`."""
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "1", "--place", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
