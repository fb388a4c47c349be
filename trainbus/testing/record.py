"""``python -m trainbus.testing.record FOLDER``: makes the histories of `trainbus.testing.recordings`; existing ones are left alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from trainbus.bus import events
from trainbus.testing.bus import MemoryBus
from trainbus.testing.recordings import RECORDED, pack
from trainbus.testing.trainer import FakeTrainer, Fault

STEPS = 200
AT = 120
SEED = 7
SILENCE = 15.0
"""Seconds after which the broker reports a run as lost (`bus.lost_after`)."""


def record(name: str) -> list[events.AnyEvent]:
    """One history, made anew."""
    bus = MemoryBus()
    fault: Fault = name if name in get_args(Fault) else ""  # type: ignore[assignment] # the line says so
    run = bus.run("run-1", name=name, config={"learning_rate": 2e-4, "seed": SEED})
    trainer = FakeTrainer(run, steps=STEPS, seed=SEED, fault=fault, at=AT, clock=bus.clock)
    if name == "steered":
        _steer(bus, trainer)
    trainer.train()
    if name == "killed":
        bus.clock.advance(SILENCE)
        run.close("lost", reason=f"no sign of life for {SILENCE:.0f} s")
    return bus.journal


def _steer(bus: MemoryBus, trainer: FakeTrainer) -> None:
    trainer.train(50)
    bus.command("run-1", "pause", reason="to look at it")
    trainer.train()
    bus.clock.advance(30.0)
    bus.command("run-1", "resume")
    trainer.train(100)
    bus.command("run-1", "set", learning_rate=5e-5)
    trainer.train(150)
    bus.command("run-1", "stop", reason="good enough")


def main(folder: Path) -> None:
    """Write what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECORDED:
        file = folder / f"{name}.msgpack.gz"
        if not file.exists():
            file.write_bytes(pack(record(name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "histories")
