"""Run benchmarks and write their report.

    python -m benchmarks [NAMES] [--quick]

Each runs in a process of its own. Those with peers run in .venv-bench where there is one (`make bench` makes it): a peer that is not
installed is reported as absent.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import frame, report

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

BENCHMARKS = {
    "publish": "one publish call with ten metrics, in a tight loop and at 100 a second, whatever happens around it",
    "callback": "what a Hugging Face Trainer pays at each step",
    "training": "throughput of trainbus train beside a bare Hugging Face Trainer",
    "kill": "kill -9 right after 5,000 calls",
    "kill_peers": "kill -9 of training and of the logging server, for trainbus and other loggers",
    "cost": "what a logger costs: calls, memory, processes, threads, start, finish, steps of a Trainer",
    "throughput": "durable events a second from a publisher to a subscriber",
    "latency": "from publish to a subscriber at 100 events a second",
    "scale": "fan-out to many subscribers, a thousand connections, and how things grow with the history",
    "replay": "history into a late subscriber",
    "broker": "the broker alone, and the limits of its parts",
    "dashboard": "the page with a run of a million steps, in headless Chromium",
    "dashboard_soak": "50 runs, 5 pages in headless Chromium, 100 events a second for an hour: processor and memory",
    "dashboard_peers": "the page beside TensorBoard and Trackio on the same points",
    "startup": "import trainbus and trainbus --help",
    "detector": "the anomaly plugin's cost of an event",
    "tokenising": "a file of 100,000 chats: speed and peak memory, beside datasets.map and the naive way",
    "serving": "answers in batches beside one at a time, and swapping adapters",
    "examining": "what a training pays while its checkpoints are examined, on this machine and elsewhere",
    "memory_cost": "the memory plugin's own CPU and memory while nothing happens",
}
WITH_PEERS = ("publish", "kill_peers", "cost", "throughput", "latency", "scale")


def run_one(name: str, quick: bool) -> None:
    """In the benchmark's own process: measure, print, save."""
    before, began = frame.load(), time.monotonic()
    result: frame.Result = importlib.import_module(f"benchmarks.{name}").bench(quick)
    result.name, result.quick, result.seconds, result.load = name, quick, time.monotonic() - began, [before, frame.load()]
    frame.save(result)
    print(frame.show(result))


def python_for(name: str) -> str:
    """The interpreter that has what a benchmark needs."""
    return str(PEERS_PYTHON) if name in WITH_PEERS and PEERS_PYTHON.exists() else sys.executable


def main() -> int:
    listing = "\n".join(f"  {name:<14}{about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\nBenchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events: a look, not a result")
    parser.add_argument(
        "--events", type=int, metavar="N", help="scale: grow a history of so many events (1,000,000; 10,000,000 takes a while)"
    )
    parser.add_argument("--ten-times", action="store_true", help="tokenising: ours alone, over 1,000,000 chats (2.7 GB), for its memory")
    parser.add_argument("--docs", action="store_true", help="measure nothing; quote the last results in docs/benchmarks.md")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    names = options.names or list(BENCHMARKS)
    if options.docs:
        report.write_docs(list(BENCHMARKS))
        return 0
    if options.one:
        run_one(names[0], options.quick)
        return 0
    failed = []
    if options.events:
        os.environ["BENCH_EVENTS"] = str(options.events)
    if options.ten_times:
        os.environ["BENCH_TEN_TIMES"] = "1"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    for name in names:
        command = [python_for(name), "-m", "benchmarks", name, "--one", *(["--quick"] if options.quick else [])]
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
    bars = report.write(list(BENCHMARKS))
    print(frame.markdown(frame.bars_table(bars, "All bars")))
    print(f"\n{report.MD.relative_to(ROOT)}, {report.JSON.relative_to(ROOT)}")
    if failed:
        print(f"These did not run to their end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
