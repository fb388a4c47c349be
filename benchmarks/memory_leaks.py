"""Trainings with a planted leak under a real limit, one line each: ``python -m benchmarks.memory_leaks [SEEDS] [--torch]``.

Needs the right to make control groups. Exit code 1 when one was not named within 50 steps, not predicted within 20 % at half way, or
died without a complete checkpoint.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.hosting.system import System
from tests.plugins.memory.leak_runs import ACT, LEAKS, LIMIT, TORCH_LIMIT, check, check_figures, control_group, numbers, trained


def main():
    """Run them one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="?", type=int, default=20)
    parser.add_argument("--torch", action="store_true", help="a real training of a network")
    chosen = parser.parse_args()
    held = 0
    print("seed  MB a step  named at  MB a step at half  end at half way  killed at  saved at  holds")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["TRAINBUS_HOME"] = str(home)
        system = System(home)
        try:
            system.up("memory", memory=ACT)
            for seed in range(chosen.seeds):
                leak = LEAKS[seed % 4]
                with control_group(TORCH_LIMIT if chosen.torch else LIMIT) as group:
                    kind = "torch" if chosen.torch else "plain"
                    code, events = trained(group, Path(folder), seed, system.root, leak, kind=kind)
                found, holds = numbers(events), "yes"
                try:
                    check_figures(check(leak, code, events, "kernel"), leak)
                    held += 1
                except (AssertionError, TypeError) as error:
                    holds = f"no: {str(error).splitlines()[0] if str(error) else error!r}"
                off = "-" if found["half_error"] is None else f"{100 * found['half_error']:+.1f} %"
                cells = (found["named"], found["mb_per_step"], off, found["ended"], found["saved"])
                print(
                    f"{seed:4}  {leak:9}  {cells[0]!s:>8}  {cells[1]!s:>17}  {off:>15}  {cells[3]!s:>9}  {cells[4]!s:>8}  {holds}",
                    flush=True,
                )
        finally:
            system.close()
    print(f"{held} of {chosen.seeds} hold")
    return 0 if held == chosen.seeds else 1


if __name__ == "__main__":
    sys.exit(main())
