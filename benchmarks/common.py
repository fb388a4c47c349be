"""What the benchmarks share: figures, tables, a broker process, the machine's description."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

METRICS = {
    name: 0.1 * number
    for number, name in enumerate(
        ("loss", "learning_rate", "grad_norm", "tokens_per_second", "samples_per_second", "accuracy", "entropy", "memory", "epoch", "mfu"),
        1,
    )
}
"""Ten metrics, as a training step has them."""


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value below which ``fraction`` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def figures(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, max and mean."""
    return {
        "p50": percentile(values, 0.50),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values),
        "mean": statistics.fmean(values),
    }


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return {"cpu": model, "cores": str(os.cpu_count()), "system": platform.platform(), "python": platform.python_version()}


@contextlib.contextmanager
def broker(root: Path | None = None, **bus: object) -> Iterator[Path]:
    """A real broker process in a home of its own; yields the home."""
    with contextlib.ExitStack() as stack:
        home = root or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainbus-bench-")))
        command = [sys.executable, "-m", "trainbus.bus.broker", "--root", str(home), "--config", json.dumps(bus)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("the broker did not start")
            yield home
        finally:
            process.terminate()
            process.wait(10)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def save(name: str, result: dict[str, object]) -> None:
    """Write one benchmark's result where the report finds it."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    result = {"benchmark": name, "machine": machine(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **result}
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
