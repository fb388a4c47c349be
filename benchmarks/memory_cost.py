"""What the memory plugin costs: CPU and memory of its process while a calm training runs, beside other watchdogs (--peer).

Limits: 1 % of one core, 40 MB resident. The plugin's process holds Python, the bus and the plugin; ``own`` is what only it holds (USS), and
``look_percent`` the CPU of the looks alone, measured in this process.

Run: python benchmarks/memory_cost.py [--seconds 60] [--trainings 1] [--peer "earlyoom --dryrun"] [--json]
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import save, table
from trainbus.bus.client import Client
from trainbus.bus.hosting.instance import read_running
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.machine import Machine
from trainbus.plugins.memory.training import Training

CPU_LIMIT_PERCENT = 1.0
RESIDENT_LIMIT_MB = 40.0
CALM = """
import sys, time, trainbus
with trainbus.init("calm", run=sys.argv[1]) as run, run.phase("train"):
    for step in range(1, 10_000_000):
        run.step(step, loss=1.0)
        time.sleep(0.1)
"""
SETTLE_SECONDS = 20.0
"""The first hundred steps of a training are looked at closely: that is not calm."""


def figures(process, seconds):
    """CPU percent of one core over ``seconds``, then resident and own megabytes."""
    before = process.cpu_times()
    began = time.monotonic()
    time.sleep(seconds)
    after, ended = process.cpu_times(), time.monotonic()
    spent = after.user + after.system - before.user - before.system
    memory = process.memory_full_info()
    return {"cpu_percent": 100 * spent / (ended - began), "resident_mb": memory.rss / 1e6, "own_mb": memory.uss / 1e6}


def looks(count=300):
    """CPU percent of one core for looks at the calm pace."""
    config = MemoryConfig()
    machine = Machine("bench", config)
    training = Training("calm", os.getpid(), time.time_ns(), "calm")
    machine.look([training], [Path.cwd()])
    began = time.process_time()
    for _ in range(count):
        machine.look([training], [Path.cwd()])
    spent = time.process_time() - began
    machine.close()
    return 100 * spent / count / config.interval


def plugin(seconds, trainings):
    """The memory plugin's process under `trainbus up`."""
    with tempfile.TemporaryDirectory(prefix="trainbus-bench-") as folder:
        home = Path(folder) / "home"
        environment = os.environ | {"TRAINBUS_HOME": str(home)}
        config = Path(folder) / "trainbus.toml"
        config.write_text('plugins = ["memory"]\n')
        command = [sys.executable, "-m", "trainbus", "up", "--config", str(config)]
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)]
        try:
            deadline = time.monotonic() + 30
            while (running := read_running(home)) is None or not running.plugins or running.plugins[0].state != "running":
                if time.monotonic() > deadline:
                    raise SystemExit("the plugin did not start")
                time.sleep(0.1)
            calm = [sys.executable, "-c", CALM]
            processes += [subprocess.Popen([*calm, f"calm-{number}"], env=environment) for number in range(trainings)]
            time.sleep(SETTLE_SECONDS)
            with Client(root=home) as client:
                before = client.status().head
                found = figures(psutil.Process(running.plugins[0].pid), seconds)
                taken = sum(1 for _ in client.events(kinds=("system",), after=before))
            return {"case": f"memory plugin, {trainings} trainings", "looks": taken, **found}
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(20)


def peer(command, seconds):
    """Another watchdog over the same time."""
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        return {"case": command.split()[0].rpartition("/")[2], "looks": None, **figures(psutil.Process(process.pid), seconds)}
    finally:
        process.terminate()
        process.wait(10)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--trainings", type=int, default=1)
    parser.add_argument("--peer", action="append", default=[], help="command of another watchdog; may be given more than once")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    look_percent = looks()
    rows = [plugin(arguments.seconds, 0), plugin(arguments.seconds, arguments.trainings)]
    rows += [peer(command, arguments.seconds) for command in arguments.peer]
    for row in rows:
        row |= {"of_cpu_limit": row["cpu_percent"] / CPU_LIMIT_PERCENT, "of_resident_limit": row["resident_mb"] / RESIDENT_LIMIT_MB}
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        columns = ("case", "looks", "cpu_percent", "resident_mb", "own_mb", "of_cpu_limit", "of_resident_limit")
        shown = [[f"{row[column]:.2f}" if isinstance(row[column], float) else row[column] for column in columns] for row in rows]
        print(f"the looks alone: {look_percent:.3f} % of one core")
        table(f"The memory plugin over {arguments.seconds:g} s", columns, shown)
    save("memory_cost", {"rows": rows, "look_percent": look_percent, "seconds": arguments.seconds})
    return int(any(row["of_cpu_limit"] > 1 or row["of_resident_limit"] > 1 for row in rows[:2]))


if __name__ == "__main__":
    sys.exit(main())
