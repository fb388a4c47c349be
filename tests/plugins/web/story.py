"""The events of a short training as five plugins would see it: a spike, a NaN, checkpoints, samples, a machine and its plugins."""

import math
import random
from typing import Any

from trainbus.bus.events import (
    Alert,
    Checkpoint,
    CheckpointDisk,
    CheckpointFate,
    Eval,
    Event,
    Gpu,
    Job,
    Memory,
    Phase,
    Plugin,
    Pressure,
    Process,
    Retention,
    RunEnded,
    RunStarted,
    Sample,
    Step,
    System,
    checkpoint_id,
)

SECOND = 1_000_000_000
GIB = 1024**3


def training(run: str = "qwen3-gsm8k", *, steps: int = 400, total: int = 600, now: int = 1_700_000_000 * SECOND) -> list[Event]:
    """A run that has reached ``steps`` at the time ``now``, two steps a second."""
    chance = random.Random(7)
    begin = now - steps * SECOND // 2
    story: list[Event] = [
        RunStarted(run=run, name="gsm8k", time=begin, host="gpu-box", pid=4242, config={"lr": 2e-4, "method": "qlora"}),
        Phase(run=run, name="train", state="started", time=begin),
    ]
    for step in range(1, steps + 1):
        time = begin + step * SECOND // 2
        spike = 1.7 * math.exp(-abs(step - 250) / 4) if step >= 250 else 0.0
        loss = math.nan if step == 300 else 0.42 + 2.1 * math.exp(-step / 90) + spike + chance.gauss(0, 0.045)
        metrics = {
            "loss": loss,
            "learning_rate": 2e-4 * min(1, step / 40) * (0.5 + 0.5 * math.cos(math.pi * step / total)),
            "grad_norm": abs(0.8 + chance.gauss(0, 0.2) + 4 * spike),
            "tokens_per_second": 5200 + chance.gauss(0, 180) - (1500 if step % 50 < 2 else 0),
        }
        story.append(Step(run=run, step=step, total_steps=total, epoch=step / total, tokens=step * 4096, time=time, metrics=metrics))
        if step % 50 == 0:
            story += _checkpoint(run, step, time, chance)
        if step == 252:
            story.append(
                Alert(
                    run=run, id="spike@250", rule="loss_spike", plugin="anomaly", step=250, time=time, severity="warning", state="raised",
                    message="Loss rose to 2.24, 12 standard deviations above its mean of the last 50 steps",
                    evidence={"loss": 2.24, "mean": 0.56, "deviations": 12.1}, advice="Look at the learning rate of this step.",
                )
            )  # fmt: skip
        if step == 300:
            alert = {"run": run, "id": "nan@300", "rule": "nan_loss", "plugin": "anomaly", "time": time, "severity": "critical"}
            story.append(Alert(**alert, step=300, message="Loss is NaN"))
            story.append(Alert(**alert, step=301, state="cleared", message="Loss is NaN", evidence={"loss": math.nan, "steps": 1}))
    story += _machine(now)
    return story


def _checkpoint(run: str, step: int, time: int, chance: random.Random) -> list[Event]:
    identity = checkpoint_id(run, step, f"{step:016x}")
    state = "deleted" if step in (50, 100, 200) else "complete"
    accuracy = min(0.9, 0.2 + step / 700)
    found: list[Event] = [
        Checkpoint(run=run, id=identity, host="gpu-box", step=step, path=f"/runs/{run}/checkpoint-{step}", state=state,
                   bytes=38_400_000 + step, digest=f"{step:016x}", metrics={"loss": 0.42 + 2.1 * math.exp(-step / 90)}, time=time,
                   reason="newest 3" if step > 250 else "not among the newest 3" if state == "deleted" else "best exact_match"),
        Eval(run=run, step=step, dataset="gsm8k-test", checkpoint=identity, examples=40, duration=12.5, time=time,
             metrics={"exact_match": accuracy, "loss": 0.5 + 2.1 * math.exp(-step / 85)}),
    ]  # fmt: skip
    for question in range(3):
        left, right = chance.randrange(10, 90), chance.randrange(10, 90)
        correct = chance.random() < accuracy
        answer = f"{left} + {right} = {left + right if correct else left + right - 10}"
        found.append(
            Sample(run=run, step=step, prompt=f"Ann has {left} marbles and finds {right}. How many has she now?", answer=answer,
                   expected=str(left + right), correct=correct, dataset="gsm8k-test", example=f"q{question}", checkpoint=identity,
                   time=time)
        )  # fmt: skip
    return found


def _machine(now: int) -> list[Event]:
    return [
        System(
            host="gpu-box", time=now, cpu_percent=64.2, risk="low", memory=Memory(total=32 * GIB, used=int(23.4 * GIB), available=9 * GIB),
            swap=Memory(total=8 * GIB, used=GIB // 3), pressure=Pressure(some=0.4, full=0.0),
            gpus=[Gpu(index=0, name="H100", memory_total=80 * GIB, memory_used=52 * GIB, utilization=97.0, temperature=61.0, power=540.0)],
            processes=[Process(pid=4242, name="python", role="trainer", rss=14 * GIB, processes=5),
                       Process(pid=4300, name="python", role="broker", rss=60 * 1024**2)],
        ),
        *[Plugin(name=name, state="running", lag=0, version="0.1.0", time=now) for name in ("anomaly", "retention", "memory", "web")],
        Plugin(name="inference", state="failed", lag=12, restarts=5, dead_letters=1, time=now, error="The server does not answer."),
    ]  # fmt: skip


def keeping(run: str = "qwen3-gsm8k", *, now: int, dry_run: bool = False) -> list[Event]:
    """What retention says of the checkpoints of `training`: some kept, one of them pinned and one read, some in the trash, one gone."""
    fates = []
    for step in range(50, 401, 50):
        fate = CheckpointFate(
            id=checkpoint_id(run, step, f"{step:016x}"), step=step, path=f"/runs/{run}/checkpoint-{step}", bytes=38_400_000 + step,
            time=now - (400 - step) * SECOND // 2, metrics={"loss": 0.42 + 2.1 * math.exp(-step / 90)},
        )  # fmt: skip
        match step:
            case 50:
                continue
            case 100 | 200:
                fate.state, fate.restorable, fate.until = "trashed", True, now + 3600 * SECOND
                fate.reasons = ["deleted by plugin:retention: no policy keeps it"]
            case 150:
                fate.state, fate.reasons = "goes", ["no policy keeps it"]
            case 250:
                fate.protected, fate.pinned, fate.reasons = True, "pinned by bo: before the spike", ["pinned by bo: before the spike"]
            case 350:
                fate.protected, fate.leases = True, ["plugin:inference: evaluation"]
                fate.reasons = ["one of the newest 3", "leased by plugin:inference: evaluation"]
            case _:
                fate.protected, fate.reasons = step == 400, ["newest complete"] if step == 400 else ["one of the newest 3"]
        fates.append(fate)
    disk = CheckpointDisk(
        path="/runs", total=200 * GIB, free=41 * GIB, checkpoints=74 * GIB, trash=13 * GIB, floor=20 * GIB, full_in=93_000.0,
        directories=[f"/runs/{run}"],
    )  # fmt: skip
    return [
        Retention(run=run, host="gpu-box", full=True, dry_run=dry_run, checkpoints=fates, time=now),
        Retention(host="gpu-box", dry_run=dry_run, disks=[disk], time=now),
    ]


def crowd(now: int) -> list[Event]:
    """Runs that ended before, with names, outcomes and configurations of their own; panels, commands and a queue."""
    chance = random.Random(3)
    story: list[Event] = []
    for number, (run, outcome, rate) in enumerate(
        [("lr-1e-4", "completed", 1e-4), ("lr-5e-4-diverged", "failed", 5e-4), ("baseline-full-precision-long-name", "stopped", 2e-4)]
    ):
        begin = now - (number + 2) * 3600 * SECOND
        story.append(
            RunStarted(run=run, name="gsm8k", time=begin, host="gpu-box", config={"lr": rate, "method": "qlora", "rank": 8 * (number + 1)})
        )
        for step in range(1, 301):
            loss = (
                0.5 + number * 0.1 + 2.0 * math.exp(-step * rate / 0.02) + chance.gauss(0, 0.04) + (step / 60 if outcome == "failed" else 0)
            )
            story.append(Step(run=run, step=step, total_steps=300, time=begin + step * SECOND, examples=step * 8, metrics={"loss": loss}))
        story.append(
            RunEnded(run=run, outcome=outcome, step=300, time=begin + 301 * SECOND, reason="loss exploded" if outcome == "failed" else "")
        )
    story.append(Plugin(name="memory", state="starting", time=now - 60 * SECOND))
    for second in range(40, 0, -2):
        memory = Memory(total=32 * GIB, used=20 * GIB, available=int((9 + math.sin(second / 5)) * GIB))
        story.append(System(host="gpu-box", time=now - second * SECOND, memory=memory, risk="low", cpu_percent=50.0 + second))
    run = "qwen3-gsm8k"
    files = (("processing", 150), ("completed", 90), ("processing", 90), ("completed", 30), ("processing", 30), ("queued", 20))
    for number, (state, ago) in enumerate(files):
        name = number // 2 + (state == "queued")
        job = {"id": f"j{name}", "file": f"/inbox/part-{name}.jsonl", "bytes": 3_000_000 + 400_000 * name, "examples": 1200}
        story.append(Job(run=run, state=state, time=now - ago * SECOND, **job))
    return story


def supervisor() -> dict[str, Any]:
    """What a supervisor answers that runs the plugins of `training`."""
    return {
        "installed": [{"name": name, "version": "0.1.0"} for name in ("anomaly", "inference", "memory", "notify", "retention", "web")],
        "log": [f"2026-11-21T05:{minute:02d}:00.000 The server does not answer." for minute in range(30)],
        "restart": {"name": "inference", "state": "running"},
        "add": {"name": "notify", "state": "running"},
        "remove": {"name": "inference", "state": "stopped"},
    }
