"""What the memory plugin costs while nothing happens: CPU and memory of its process, beside earlyoom and nohang where there are any."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.frame import Bar, Result, Table
from trainbus.bus.client import Client
from trainbus.bus.hosting.instance import read_running
from trainbus.machine.training import Training
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.machine import Machine

CPU_LIMIT_PERCENT = 1.0
RESIDENT_LIMIT_MB = 40.0
CALM = """
import time, trainbus
with trainbus.init("calm", run="calm") as run, run.phase("train"):
    for step in range(1, 10_000_000):
        run.step(step, loss=1.0)
        time.sleep({pause})
"""
SETTLE_SECONDS = 20.0
"""The first hundred steps of a training are looked at closely: that is not calm."""
CASES: tuple[tuple[str, float | None], ...] = (("nothing runs", None), ("a step each second", 1.0), ("ten steps a second", 0.1))


def figures(process: psutil.Process, seconds: float) -> tuple[float, float, float]:
    """CPU percent of one core over ``seconds``, then resident and own megabytes."""
    before = process.cpu_times()
    began = time.monotonic()
    time.sleep(seconds)
    after, ended = process.cpu_times(), time.monotonic()
    spent = after.user + after.system - before.user - before.system
    memory = process.memory_full_info()
    return 100 * spent / (ended - began), memory.rss / 1e6, memory.uss / 1e6


def looks(count: int) -> float:
    """CPU percent of one core of looks alone, at the calm pace."""
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


def plugin(seconds: float, pause: float | None) -> tuple[float, float, float, int]:
    """The memory plugin's process under `trainbus up`; also how many looks it published meanwhile."""
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
            if pause is not None:
                processes.append(subprocess.Popen([sys.executable, "-c", CALM.format(pause=pause)], env=environment))
            time.sleep(SETTLE_SECONDS)
            with Client(root=home) as client:
                before = client.status().head
                found = figures(psutil.Process(running.plugins[0].pid), seconds)
                return *found, sum(1 for _ in client.events(kinds=("system",), after=before))
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(20)


def peer(command: list[str], seconds: float) -> tuple[float, float, float]:
    """The same of another watcher."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        return figures(psutil.Process(process.pid), seconds)
    finally:
        process.terminate()
        process.wait(10)


def peers(folder: Path) -> dict[str, list[str]]:
    """Their commands, where they are installed. Both look at one number up to ten times a second; neither kills anything here."""
    found = {}
    if (path := shutil.which("earlyoom")) is not None:
        found["earlyoom"] = [path, "--dryrun", "-r", "0"]
    if (path := shutil.which("nohang")) is not None:
        # It has no dry run: its levels are set where no machine gets to.
        shipped = (Path(path).parents[2] / "etc" / "nohang" / "nohang.conf").read_text()
        config = folder / "nohang.conf"
        config.write_text(re.sub(r"(?m)^((?:soft|hard)_threshold_min_(?:mem|swap)\s*=).*$", r"\1 0.1 %", shipped))
        found["nohang"] = [path, "--monitor", "--config", str(config)]
    return found


def version(name: str) -> str:
    """What it says of itself."""
    said = subprocess.run([name, "-v"], capture_output=True, text=True, check=False)
    return (said.stdout.strip() or said.stderr.strip()).partition("\n")[0]


def bench(quick: bool) -> Result:
    seconds = 20.0 if quick else 60.0
    look_percent = looks(100 if quick else 1_000)
    measured = {name: plugin(seconds, pause) for name, pause in CASES}
    rows: list[list[str | float | int]] = [[f"memory plugin, {name}", *row] for name, row in measured.items()]
    with tempfile.TemporaryDirectory(prefix="trainbus-bench-") as folder:
        others = peers(Path(folder))
        rows += [[name, *peer(command, seconds), 0] for name, command in others.items()]
    calm = measured["nothing runs"]
    return Result(
        "Memory plugin",
        f"Its process over {seconds:g} s, with Python and the bus in it; the looks alone take {look_percent:.3f} % of one core.",
        [Table("while memory is calm", ["case", "CPU % of one core", "resident MB", "own MB", "looks"], rows)],
        [
            Bar("the looks alone", look_percent, CPU_LIMIT_PERCENT, "% of one core"),
            *(Bar(f"CPU, {name}", row[0], CPU_LIMIT_PERCENT, "% of one core") for name, row in measured.items()),
            Bar("resident memory", calm[1], RESIDENT_LIMIT_MB, "MB"),
        ],
        {name: version(name) if name in others else "absent" for name in ("earlyoom", "nohang")},
        {"cases": measured, "look_percent": look_percent},
    )
