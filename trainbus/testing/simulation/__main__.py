"""``python -m trainbus.testing.simulation FIRST COUNT``."""

from __future__ import annotations

import sys
import time

import msgspec

from trainbus.testing.simulation.scenario import simulate


def main() -> int:
    """Run seeds; print the first that breaks a promise, and totals."""
    first, count = (int(value) for value in (*sys.argv[1:3], *("0", "100")[len(sys.argv) - 1 :]))
    begin = time.monotonic()
    totals: dict[str, int] = {}
    for seed in range(first, first + count):
        outcome = simulate(seed)
        if outcome.problems:
            sys.stdout.write(f"seed {seed}:\n" + "\n".join(outcome.problems) + "\n")
            return 1
        for name, value in msgspec.structs.asdict(outcome).items():
            if isinstance(value, int) and name != "seed":
                totals[name] = totals.get(name, 0) + value
    figures = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in totals.items())
    sys.stdout.write(f"{count} seeds in {time.monotonic() - begin:.0f} s: {figures}; every promise held\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
