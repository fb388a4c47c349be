"""Time of ``import trainbus`` over a bare interpreter, and of ``trainbus --help``: fresh processes in turn, the fastest of many."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from benchmarks.common import spread
from benchmarks.frame import Bar, Result, Table

HELP_BAR_MS, IMPORT_BAR_MS = 200.0, 80.0
COMMANDS = {
    "python -c pass (limit)": ["-c", "pass"],
    "import trainbus": ["-c", "import trainbus"],
    "import trainbus, and what init needs": ["-c", "import trainbus; trainbus.init"],
    "import trainbus, and what Subscriber needs": ["-c", "import trainbus; trainbus.Subscriber"],
    "trainbus --help": ["-c", "import sys; sys.argv = ['trainbus', '--help']; from trainbus.cli import main; main()"],
}


def once(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor time of one process, in ms."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall * 1e3, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def bench(quick: bool) -> Result:
    rounds = 5 if quick else 25
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            found[name].append(once(arguments))
    wall = {name: min(one[0] for one in times) for name, times in found.items()}
    bare = wall["python -c pass (limit)"]
    rows: list[list[str | float | int]] = [
        [
            name,
            wall[name],
            wall[name] - bare,
            min(one[1] for one in times),
            spread([one[0] for one in times], 0),
            f"{wall[name] / bare:.1f}",
        ]
        for name, times in found.items()
    ]
    columns = ["", "ms", "beyond bare python", "processor time", "over the rounds", "times bare python"]
    return Result(
        "Start",
        f"Whole processes, in turn, {rounds} rounds; the fastest counts, because whatever else runs here only adds.",
        [Table("ms from start to end of the process", columns, rows)],
        [
            Bar("import trainbus, beyond bare python", wall["import trainbus"] - bare, IMPORT_BAR_MS, "ms"),
            Bar("trainbus --help", wall["trainbus --help"], HELP_BAR_MS, "ms"),
        ],
        data={"rounds": found},
    )
