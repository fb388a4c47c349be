"""The fault matrix: real processes, each row many times at seeded moments, judged by the one history checker.

    python -m tests.faults.matrix [--rows NAME,...] [--rounds 20] [--seed 1] [--json FILE]

Each round is a process of its own in a folder of its own. What was played is kept in build/faults and not played again, until trainbus
or the rows change (or with --fresh): an interrupted matrix goes on where it was. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.faults.matrix import mutants, report
from tests.faults.matrix.player import PLACE, Player, play
from tests.faults.matrix.row import ROWS, Row
from tests.faults.matrix.rows import load


def chosen(text: str, parser: argparse.ArgumentParser) -> list[Row]:
    """The rows that ``--rows`` names; a trailing star stands for any ending."""
    if not text:
        return list(ROWS.values())
    found: dict[str, Row] = {}
    for word in text.split(","):
        matching = {name: one for name, one in ROWS.items() if name == word or (word.endswith("*") and name.startswith(word[:-1]))}
        if not matching:
            parser.error(f"no row is called {word!r}; there are {', '.join(ROWS)}")
        found |= matching
    return list(found.values())


def main() -> int:
    load()
    width = max(map(len, ROWS))
    listing = "\n".join(f"  {one.name:<{width}}  {one.title}" for one in ROWS.values())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.matrix",
        description=f"{__doc__}\nRows:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", default="", metavar="NAMES", help="with commas; kill-* for all that begin so; default: all")
    parser.add_argument("--rounds", type=int, default=20, help="of each row (20)")
    parser.add_argument("--seed", type=int, default=1, help="decides every moment and choice (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every round goes; default: build/faults/matrix.json")
    parser.add_argument("--place", type=Path, default=PLACE, help="where rounds are kept; default: build/faults")
    parser.add_argument("--fresh", action="store_true", help="play again what was played")
    parser.add_argument(
        "--strict", action="store_true", help="exit code 1 also for a step that publishing made 1 ms longer: needs a quiet machine"
    )
    parser.add_argument("--docs", action="store_true", help="play nothing; write docs/faults.md from what was played last")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="break trainbus in this way first: the matrix must fail")
    parser.add_argument("--play", metavar="ROW", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        return play(ROWS[given.play], given.seed, given.number, given.folder)
    rows = chosen(given.rows, parser)
    output = given.json or given.place / "matrix.json"
    if given.docs:
        report.write_docs(output)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))  # so that the round at play is ended, too
    player = Player(given.place, given.seed, mutant=given.mutant or "", fresh=given.fresh)
    player.play_all(rows, given.rounds)
    matrix = report.matrix(rows, player.rounds(rows, given.rounds), given.seed)
    report.save(matrix, output)
    sys.stdout.write(report.text(matrix) + f"\n{output}\n")
    return 1 if matrix.broken or (given.strict and matrix.late) else 0


if __name__ == "__main__":
    sys.exit(main())
