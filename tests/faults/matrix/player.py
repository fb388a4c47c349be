"""Plays rounds, each in a process of its own, and keeps what they found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import msgspec
import pytest

from tests.conftest import ROOT
from tests.faults.matrix import mutants
from tests.faults.matrix.row import Round, Row
from tests.faults.matrix.stage import open_stage

PLACE = ROOT / "build" / "faults"
GRACE_SECONDS = 30.0
"""How long a round that hangs may take to leave nothing behind."""
LAST_PATIENCE = 5.0
"""How long a round that has failed waits for its readers, for the count."""
RESULT = "round.json"
KEPT_FOLDERS = 5
"""Failed rounds whose folders are kept to be looked at."""


def version() -> str:
    """Of trainbus and the rows: rounds of another one count no more."""
    digest = hashlib.sha256()
    for folder in ("trainbus", "tests/faults"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def play(row: Row, seed: int, number: int, folder: Path) -> int:
    """In the round's own process: play it, judge it, write it down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    found = Round(row=row.name, seed=seed, number=number, version=version(), load=os.getloadavg()[0])
    began = time.monotonic()
    with open_stage(folder, f"{seed} {row.name} {number}") as stage:
        stage.number = number
        try:
            row.act(stage)
            stage.finish_all()
            stage.fill_in(found, row)
        except pytest.skip.Exception as reason:
            found.skipped = str(reason)
        except Exception:  # noqa: BLE001 - whatever went wrong is what this round found
            problem = traceback.format_exc()
            with contextlib.suppress(Exception):  # what is lost is counted all the same, where that can still be found out
                stage.fill_in(found, row, patience=LAST_PATIENCE)
            found.problem = "\n".join(filter(None, (problem, found.problem)))
        except SystemExit:
            found.problem = f"it hung for {row.seconds:.0f} s: {traceback.format_exc()}"
        found.seconds = time.monotonic() - began
        (folder / RESULT).write_bytes(msgspec.json.encode(found))
    return 0


class Player:
    """Plays what is not played yet.

    Args:
        place: Where rounds are kept.
        mutant: Break a copy of the tree in this way, and play with that.
        fresh: Forget what was played before.
    """

    def __init__(self, place: Path, seed: int, *, mutant: str = "", fresh: bool = False) -> None:
        self._place = place
        self._seed = seed
        self._mutant = mutant
        place.mkdir(parents=True, exist_ok=True)
        self._file = place / (f"rounds-{mutant}.jsonl" if mutant else "rounds.jsonl")
        self._tree = mutants.broken_tree(mutant, place) if mutant else ROOT
        self._version = version()
        if fresh:
            self._file.unlink(missing_ok=True)
        self._rounds: dict[tuple[str, int], Round] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._file.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):  # cut off by a kill, or of an older form
                    self._keep(msgspec.json.decode(line, type=Round))

    def rounds(self, rows: list[Row], count: int) -> list[Round]:
        """What is there of these rows."""
        keys = [(row.name, number) for row in rows for number in range(count)]
        return [self._rounds[key] for key in keys if key in self._rounds]

    def play_all(self, rows: list[Row], count: int) -> None:
        """Round after round of every row, so that an early stop has something of each."""
        wanted = [(row, number) for number in range(count) for row in rows if (row.name, number) not in self._rounds]
        known = len(rows) * count - len(wanted)
        if known:
            _say(f"{known} rounds were played before")
        for done, (row, number) in enumerate(wanted, 1):
            found = self._play(row, number)
            self._keep(found)
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(found) + b"\n")
            verdict = "BROKEN" if found.problem else f"skipped: {found.skipped}" if found.skipped else "kept"
            _say(f"[{done}/{len(wanted)}] {row.name} {number}: {verdict} ({found.seconds:.1f} s)")
            if found.problem:
                _say(found.problem)

    def _keep(self, found: Round) -> None:
        if (found.seed, found.version) == (self._seed, self._version):
            self._rounds[found.row, found.number] = found

    def _play(self, row: Row, number: int) -> Round:
        folder = Path(tempfile.mkdtemp(prefix="trainbus-faults-"))
        command = [sys.executable, "-m", "tests.faults.matrix", "--play", row.name, "--seed", str(self._seed)]
        command += ["--number", str(number), "--folder", str(folder)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(command, cwd=self._tree, env=environment, stdout=output, stderr=output)
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(row.seconds)
            finally:
                if process.poll() is None:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE_SECONDS)
                    process.kill()
                    process.wait()
        _sweep(folder)
        try:
            found = msgspec.json.decode((folder / RESULT).read_bytes(), type=Round)
        except OSError:
            problem = f"the round ended with exit code {process.returncode}:\n{(folder / 'output').read_text()[-4000:]}"
            found = Round(row=row.name, seed=self._seed, number=number, version=self._version, problem=problem, load=os.getloadavg()[0])
        found.version = self._version
        self._dispose(folder, found)
        return found

    def _dispose(self, folder: Path, found: Round) -> None:
        """A failed round's folder is kept; of these, the newest few."""
        if not found.problem:
            shutil.rmtree(folder, ignore_errors=True)
            return
        kept = self._place / "failed" / f"{found.row}-{found.number}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        shutil.move(folder, kept)
        (kept / "problem.json").write_text(json.dumps({"seed": found.seed, "problem": found.problem}, indent=1))
        for old in sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Kill what a round that died left behind: processes whose home lies in its folder."""
    mark = f"TRAINBUS_HOME={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
