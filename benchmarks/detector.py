"""What the anomaly plugin costs an event, and that its state does not grow: `benchmarks/anomaly_cost.py`, in the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.frame import Bar, Result, Table

LIMIT_US = 50.0


def bench(quick: bool) -> Result:
    steps = 10_000 if quick else 100_000
    command = [sys.executable, str(Path(__file__).with_name("anomaly_cost.py")), "--json", "--steps", str(steps)]
    cases = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    rows = [[case["case"], case["us_per_event"], case["state_at_10%"], case["state_at_end"]] for case in cases]
    return Result(
        "Anomaly detection",
        f"Processor time for what the plugin does with a step of ten metrics, {steps:,} of them.",
        [Table("one step event", ["rules", "µs an event", "bytes of state after a tenth", "at the end"], rows)],
        [Bar(f"{case['case']}, an event", case["us_per_event"], LIMIT_US, "µs") for case in cases],
        data={"cases": cases},
    )
