"""A long run: ``python -m tests.faults.soak --minutes 60``. 200 events a second, plugins and readers that come and go.

Every few seconds memory, file descriptors and the journal are looked at. At the end, the one history checker judges all events, and the
second half must look like the first: memory and descriptors flat, as many journal bytes an event. Exit code 1: something grew, or broke.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.plot import line_chart
from benchmarks.scale import proportional_bytes
from tests.conftest import ROOT
from tests.faults.matrix.stage import PATIENCE, Stage, open_stage
from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.bus.subscriber import Subscriber

PLACE = ROOT / "build" / "soak"
MIB = 1024 * 1024
MEMORY_SHARE, MEMORY_MIB = 1.15, 6.0
"""The second half's memory may be so much larger than that of the second quarter, and by so many MiB, whichever is more."""
FILES = 8
"""So many descriptors more."""
BYTES_SHARE = 1.25
"""An event of the second half may take so much more of the journal than one of the first."""


class Look(msgspec.Struct):
    """One look at everything; bytes are MiB by process."""

    second: float
    events: int
    journal: float
    memory: dict[str, float]
    files: dict[str, int]


class Account(msgspec.Struct, kw_only=True):
    """The whole soak."""

    minutes: float
    rate: int
    seed: int
    published: int
    journaled: int
    delivered: dict[str, int]
    changes: dict[str, int]
    problems: list[str]
    looks: list[Look]


def look(stage: Stage, began: float) -> Look:
    """Broker, supervisor and trainer: the processes that stay."""
    pids = {"broker": stage.broker_pid(), "supervisor": stage.process.pid, "trainer": stage.trainers[0].process.pid}
    with Client(root=stage.root) as client:
        status = client.status()
    size = sum(file.stat().st_size for file in stage.root.glob("journal.db*")) / MIB
    return Look(
        second=time.monotonic() - began,
        events=status.head + 1,
        journal=size,
        memory={name: proportional_bytes(pid) / MIB for name, pid in pids.items()},
        files={name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in pids.items()},
    )


def change(stage: Stage, chance: random.Random, plugins: set[str]) -> str:
    """Somebody comes or goes."""
    what = chance.choice(("restart a plugin", "remove or add a plugin", "kill a plugin", "a reader comes and goes"))
    name = chance.choice(("alpha", "beta"))
    if what == "a reader comes and goes":
        read_a_while(stage, chance)
    elif what == "remove or add a plugin":
        stage.supervise("remove" if name in plugins else "add", name)
        plugins ^= {name}
    elif name in plugins and what == "restart a plugin":
        stage.supervise("restart", name)
    elif name in plugins:
        pid = stage.wait_for_state(name, "running").pid
        stage.strike(pid)
        stage.wait_for_state(name, "running", not_pid=pid)
    return what


def read_a_while(stage: Stage, chance: random.Random) -> None:
    """From anywhere in the history, some thousand events."""
    with Client(root=stage.root) as client:
        head = client.status().head
    with Subscriber(root=stage.root, start=chance.randrange(head + 1)) as subscriber:
        for _ in range(chance.randrange(1, 2_000)):
            if subscriber.next(0.2) is None:
                break


def growth(looks: list[Look]) -> list[str]:
    """What the second half has more of than it may. The first quarter is left out: caches and pools fill up then."""
    before, after = looks[len(looks) // 4 : len(looks) // 2], looks[len(looks) // 2 :]
    if len(before) < 2:
        return []
    problems = []
    for name in looks[0].memory:
        was, now = statistics.median(one.memory[name] for one in before), statistics.median(one.memory[name] for one in after)
        if now > max(was * MEMORY_SHARE, was + MEMORY_MIB):
            problems.append(f"{name}: {was:.1f} MiB in the second quarter, {now:.1f} in the second half")
        had, has = max(one.files[name] for one in before), statistics.median(one.files[name] for one in after)
        if has > had + FILES:
            problems.append(f"{name}: {had} descriptors in the second quarter, {has} in the second half")
    first, middle, last = looks[0], looks[len(looks) // 2], looks[-1]
    if last.events > middle.events > first.events:
        early = (middle.journal - first.journal) / (middle.events - first.events)
        late = (last.journal - middle.journal) / (last.events - middle.events)
        if late > max(early * BYTES_SHARE, early + 16 / MIB):
            problems.append(f"journal: {early * MIB:.0f} bytes an event in the first half, {late * MIB:.0f} in the second")
    return problems


def soak(stage: Stage, minutes: float, rate: int, seed: int) -> Account:
    """Run it."""
    chance = random.Random(seed)
    stage.up("alpha", "beta")
    trainer = stage.trainer("--burst", "1", "--pace", str(1 / rate))
    began = time.monotonic()
    every = max(1.0, minutes * 60 / 120)
    wait_for(lambda: all(stage.last_recorded(name) >= 0 for name in ("alpha", "beta")), PATIENCE, what="the plugins to begin")
    looks, changes, plugins = [look(stage, began)], dict[str, int](), {"alpha", "beta"}
    while time.monotonic() < began + minutes * 60:
        trainer.wait_for_seconds(chance.uniform(0.2, 1.0) * every)
        what = change(stage, chance, plugins)
        changes[what] = changes.get(what, 0) + 1
        looks.append(look(stage, began))
        sys.stderr.write(f"{looks[-1].second:.0f} s: {looks[-1].events:,} events, {looks[-1].memory['broker']:.1f} MiB, then: {what}\n")
    for name in {"alpha", "beta"} - plugins:
        stage.supervise("add", name)
    stage.finish(trainer)
    findings = stage.verdict(patience=300.0)
    problems = growth(looks) + ([] if findings.ok else [findings.explain()])
    if findings.explained:
        problems.append(f"{findings.explained} events are missing, with a gap event")
    return Account(
        minutes=minutes,
        rate=rate,
        seed=seed,
        published=findings.published,
        journaled=findings.journaled,
        delivered=findings.delivered,
        changes=changes,
        problems=problems,
        looks=looks,
    )


def save(account: Account, place: Path) -> None:
    """JSON, and two plots."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(account), indent=1) + b"\n")
    names = list(account.looks[0].memory)
    memory = {name: [(one.second, one.memory[name]) for one in account.looks] for name in names}
    line_chart(place / "soak-memory.svg", "Memory", "seconds", "MiB", memory)
    line_chart(place / "soak-journal.svg", "Journal", "events", "MiB", {"journal": [(one.events, one.journal) for one in account.looks]})


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=200, help="events a second (200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", type=Path, default=PLACE, help="where the account goes; default: build/soak")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="trainbus-soak-", ignore_cleanup_errors=True) as folder,
        open_stage(Path(folder), "soak") as stage,
    ):
        account = soak(stage, given.minutes, given.rate, given.seed)
    save(account, given.place)
    first, last = account.looks[0], account.looks[-1]
    grown = ", ".join(f"{name} {first.memory[name]:.1f} to {last.memory[name]:.1f} MiB" for name in first.memory)
    sys.stdout.write(
        f"{account.published:,} events in {account.minutes:g} minutes, {sum(account.changes.values())} comings and goings; {grown}; journal"
        f" {last.journal:.1f} MiB, {last.journal * MIB / last.events:.0f} bytes an event.\n"
    )
    for problem in account.problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if account.problems else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
