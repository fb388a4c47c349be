"""What a logger costs a training: time of a call between real work, start and finish, memory, processes, threads; and a Trainer's steps.

Every contender runs in a process of its own, all of them in turn, round after round. Memory is proportional (PSS), so that pages that
processes share count once.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.common import figures, in_a_process, spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

MIB = 1024 * 1024
WARM_UP = 20
STEP_WORK_SECONDS = 0.005


def footprint() -> dict[str, float]:
    """Memory, processes and threads of this process and its children."""
    import psutil

    own = psutil.Process()
    children = own.children(recursive=True)
    others = 0.0
    for child in children:
        with contextlib.suppress(psutil.Error):
            others += child.memory_full_info().pss
    return {"own": own.memory_full_info().pss / MIB, "others": others / MIB, "processes": len(children), "threads": threads()}


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def outside(pid: int | None) -> dict[str, float]:
    """Of a server that somebody else started."""
    import psutil

    if pid is None:
        return {"others": 0.0, "processes": 0}
    server = psutil.Process(pid)
    tree = [server, *server.children(recursive=True)]
    return {"others": sum(one.memory_full_info().pss for one in tree) / MIB, "processes": len(tree)}


def measure(name: str, folder: str, calls: int) -> dict[str, Any] | None:
    """One contender, one round; None when it is not installed."""
    os.environ["TRAINBUS_HOME"] = folder
    logger = peers.LOGGERS[name](Path(folder))
    peers.busy()
    try:
        import psutil  # noqa: F401 - before the first look, so that no contender is charged for it

        before = footprint()
        began = time.perf_counter()
        call = logger.start()
    except ImportError:
        return None
    start = time.perf_counter() - began
    taken = []
    for step in range(calls + WARM_UP):
        peers.busy(STEP_WORK_SECONDS)
        began = time.perf_counter_ns()
        call(step)
        taken.append((time.perf_counter_ns() - began) / 1_000)
    after = footprint()
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        logger.finish()
    finish = time.perf_counter() - began
    added = {key: after[key] - before[key] for key in after}
    return {"call": figures(taken[WARM_UP:]), "start": start, "finish": finish, **added}


def one_round(name: str, calls: int) -> dict[str, Any] | None:
    """With the server that the contender needs, whose memory counts."""
    with tempfile.TemporaryDirectory(prefix="bench-cost-", ignore_cleanup_errors=True) as folder:
        try:
            with peers.LOGGERS[name](Path(folder)).server() as server:
                found = in_a_process(measure, name, folder, calls)
                if found is not None:
                    beside = outside(server.pid if server is not None else None)
                    found = {**found, **{key: found[key] + value for key, value in beside.items()}}
                return found
        except SystemExit:  # its server does not start: it is not installed
            return None


# --- Hugging Face Trainer ---


def train(name: str, folder: str, steps: int) -> dict[str, Any] | None:
    """Steps of a small model at logging_steps=1; None when logger or transformers are not installed."""
    os.environ |= {"TRAINBUS_HOME": folder, "WANDB_DIR": folder, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": folder}
    os.environ |= {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TENSORBOARD_LOGGING_DIR": folder, "TOKENIZERS_PARALLELISM": "false"}
    os.chdir(folder)
    try:
        import torch

        from benchmarks.callback import Stopwatch, make_trainer, time_events, time_methods

        torch.set_num_threads(1)
        logger = peers.LOGGERS[name](Path(folder))
        if logger.package and absent_or_version(logger.package) == "absent":
            return None
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer(Path(folder) / "out", steps, logging_steps=1, report_to=logger.callbacks() or "none")
            if name == peers.Swanlab.name:
                logger.start()  # transformers' callback expects a run that is open
            if name == peers.Aim.name:
                from aim.hugging_face import AimCallback

                trainer.add_callback(AimCallback(repo=folder, experiment="bench", system_tracking_interval=None, log_system_params=False))
            return _run(name, trainer, Stopwatch(), time_events, time_methods)
    except ImportError:
        return None


def _run(name: str, trainer: Any, watch: Any, time_events: Any, time_methods: Any) -> dict[str, Any]:
    stamps: list[float] = []
    lap = watch.lap

    def stamped() -> None:
        stamps.append(time.perf_counter())
        lap()

    watch.lap = stamped
    time_events(trainer, watch)
    finish = time_methods(trainer, watch)
    began = time.perf_counter()
    if name == peers.Trainbus.name:
        import trainbus
        from trainbus.trainer_node.callback import attach

        with trainbus.init("benchmark") as run:
            attach(trainer, run)
            finish()
            trainer.train()
    else:
        finish()
        trainer.train()
    whole = time.perf_counter() - began
    skipped = len(stamps) // 10
    steps = [(after - before) * 1e3 for before, after in zip(stamps[skipped:], stamps[skipped + 1 :], strict=False)]
    return {"callbacks": figures([1e6 * one for one in watch.samples[skipped:]]), "step": figures(steps), "whole": whole}


def one_training(name: str, steps: int) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory(prefix="bench-cost-", ignore_cleanup_errors=True) as folder:
        try:
            return in_a_process(train, name, folder, steps)
        except SystemExit:  # it does not fit this transformers; its traceback was printed
            return None


IN_A_TRAINER = [name for name, one in peers.LOGGERS.items() if name not in (peers.MlflowLater.name, peers.MlflowServer.name)]


def bench(quick: bool) -> Result:
    rounds, calls, steps = (1, 100, 60) if quick else (5, 400, 200)
    found: dict[str, list[dict[str, Any]]] = {}
    trained: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in peers.LOGGERS:
            if (one := one_round(name, calls)) is not None:
                found.setdefault(name, []).append(one)
        for name in IN_A_TRAINER:
            if (one := one_training(name, steps)) is not None:
                trained.setdefault(name, []).append(one)
    tables = [calls_table(found), footprint_table(found)]
    if trained:
        tables.append(trainer_table(trained))
    return Result(
        "What a logger costs",
        f"{calls} calls with ten metrics, {STEP_WORK_SECONDS * 1e3:.0f} ms of work between two of them, {rounds} rounds, all contenders in"
        f" turn; then {steps} steps of a small model in transformers' Trainer at logging_steps=1. The best round counts for times of"
        f" calls and callbacks, the median one for memory, whole steps and whole trainings: these differ more from round to round than from"
        f" logger to logger. trainbus runs with its broker, which counts as a process.",
        tables,
        bars(found, trained),
        peers.versions() | {"transformers": absent_or_version("transformers"), "torch": absent_or_version("torch")},
        {"calls": found, "trainer": trained},
    )


def best(ones: list[dict[str, Any]], group: str, figure: str) -> float:
    return float(min(one[group][figure] for one in ones))


def median(ones: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(one[key] for one in ones))


def calls_table(found: dict[str, list[dict[str, Any]]]) -> Table:
    rows: list[list[str | float | int]] = [
        [name, *(best(ones, "call", figure) for figure in ("p50", "p95", "p99", "max")), spread([one["call"]["p50"] for one in ones])]
        for name, ones in found.items()
    ]
    return Table("µs a call with ten metrics, work between calls", ["", "p50", "p95", "p99", "max", "p50 over the rounds"], rows)


def footprint_table(found: dict[str, list[dict[str, Any]]]) -> Table:
    rows: list[list[str | float | int]] = [
        [
            name,
            min(one["start"] for one in ones),
            min(one["finish"] for one in ones),
            median(ones, "own"),
            median(ones, "others"),
            int(median(ones, "processes")),
            int(median(ones, "threads")),
        ]
        for name, ones in found.items()
    ]
    columns = ["", "start, s", "finish, s", "MiB in the training process", "MiB in others", "processes", "threads in training"]
    return Table("what it adds", columns, rows)


def trainer_table(trained: dict[str, list[dict[str, Any]]]) -> Table:
    alone = trained[peers.Logger.name]
    rows: list[list[str | float | int]] = []
    for name, ones in trained.items():
        # Differences within one round, where the machine was the same.
        beyond = [one["callbacks"]["p50"] - base["callbacks"]["p50"] for one, base in zip(ones, alone, strict=False)]
        steps = [one["step"]["p50"] for one in ones]
        rows.append(
            [
                name,
                *(best(ones, "callbacks", figure) for figure in ("p50", "p95", "p99")),
                f"{statistics.median(beyond):.1f}" if name != peers.Logger.name else "",
                float(statistics.median(steps)),
                spread(steps),
                median(ones, "whole"),
            ]
        )
    columns = ["", "p50", "p95", "p99", "beyond Trainer alone (median)", "whole step, ms (median)", "over the rounds", "whole training, s"]
    return Table("µs in callbacks a step of a Trainer at logging_steps=1", columns, rows)


def bars(found: dict[str, list[dict[str, Any]]], trained: dict[str, list[dict[str, Any]]]) -> list[Bar]:
    """trainbus over the best peer, in each column that a training feels: at most 1."""
    made = []
    ours, others = peers.Trainbus.name, [name for name in found if name not in (peers.Trainbus.name, peers.Logger.name)]
    if others and ours in found:
        for figure in ("p50", "p95", "p99", "max"):
            cheapest = min(best(found[name], "call", figure) for name in others)
            made.append(Bar(f"a call, {figure}, over the cheapest peer's", best(found[ours], "call", figure) / cheapest, 1.0, "x"))
        for key, what in (("start", "start"), ("finish", "finish")):
            cheapest = min(min(one[key] for one in found[name]) for name in others)
            made.append(Bar(f"{what}, over the cheapest peer's", min(one[key] for one in found[ours]) / cheapest, 1.0, "x"))
        cheapest = min(median(found[name], "own") for name in others)
        made.append(Bar("memory in the training process, over the smallest peer's", median(found[ours], "own") / cheapest, 1.0, "x"))
    others = [name for name in trained if name in others]
    if others and ours in trained:
        for figure in ("p50", "p99"):
            cheapest = min(best(trained[name], "callbacks", figure) for name in others)
            made.append(
                Bar(
                    f"a Trainer's step, callbacks, {figure}, over the cheapest peer's",
                    best(trained[ours], "callbacks", figure) / cheapest,
                    1.0,
                    "x",
                )
            )
    return made
