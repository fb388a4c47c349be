"""What a logger costs a training: time of a call between real work, start and finish, memory, processes, threads; and a Trainer's steps.

Every contender runs in a process of its own, all of them in turn, round after round, in another order each time. Memory is proportional
(PSS), so that pages that processes share count once. What a logger leaves to do at the program's exit counts, too: the time from
finish until the process is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
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
    return {"call": figures(taken[WARM_UP:]), "start": start, "finish": finish, "finished_at": began, **added}


def one_round(name: str, calls: int) -> dict[str, Any] | None:
    """With the server that the contender needs, whose memory counts."""
    with tempfile.TemporaryDirectory(prefix="bench-cost-", ignore_cleanup_errors=True) as folder:
        try:
            with peers.LOGGERS[name](Path(folder)).server() as server:
                found = in_a_process(measure, name, folder, calls, exits=True)
                if found is not None:
                    found["gone"] = time.perf_counter() - found.pop("finished_at")  # one clock for all processes
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

        from benchmarks.callback import make_trainer

        torch.set_num_threads(1)
        logger = peers.LOGGERS[name](Path(folder))
        if logger.package:
            importlib.import_module(logger.package)  # told as a part of its start
        make_trainer(Path(folder) / "out", steps)  # what transformers loads when it is first needed is nobody's cost
        with contextlib.redirect_stdout(io.StringIO()):
            return _train(name, logger, Path(folder), steps)
    except ImportError:
        return None


def _train(name: str, logger: peers.Logger, folder: Path, steps: int) -> dict[str, Any]:
    import trainbus
    from benchmarks.callback import Stopwatch, make_trainer, time_events, time_methods
    from trainbus.trainer_node.callback import attach

    watch = Stopwatch()
    stamps: list[float] = []
    lap = watch.lap

    def stamped() -> None:
        stamps.append(time.perf_counter())
        lap()

    watch.lap = stamped
    began = time.perf_counter()
    trainer = make_trainer(folder / "out", steps, logging_steps=1, report_to=logger.callbacks() or "none")
    if name == peers.Swanlab.name:
        logger.start()  # transformers' callback expects a run that is open
    if name == peers.Aim.name:
        from aim.hugging_face import AimCallback

        trainer.add_callback(AimCallback(repo=str(folder), experiment="bench", system_tracking_interval=None, log_system_params=False))
    time_events(trainer, watch)
    finish = time_methods(trainer, watch)
    with trainbus.init("benchmark") if name == peers.Trainbus.name else contextlib.nullcontext() as run:
        if run is not None:
            attach(trainer, run)
        finish()
        trainer.train()
    whole = time.perf_counter() - began
    skipped = len(stamps) // 10
    taken = [(after - before) * 1e3 for before, after in zip(stamps[skipped:], stamps[skipped + 1 :], strict=False)]
    return {"callbacks": figures([1e6 * one for one in watch.samples[skipped:]]), "step": figures(taken), "whole": whole}


def one_training(name: str, steps: int) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory(prefix="bench-cost-", ignore_cleanup_errors=True) as folder:
        try:
            with peers.LOGGERS[name](Path(folder)).server():
                return in_a_process(train, name, folder, steps)
        except SystemExit:  # it does not fit this transformers; its traceback was printed
            return None


IN_A_TRAINER = [name for name, one in peers.LOGGERS.items() if name not in (peers.MlflowLater.name, peers.MlflowServer.name)]


def bench(quick: bool) -> Result:
    rounds, calls, trainings, steps = (1, 100, 1, 60) if quick else (5, 400, 9, 200)
    found: dict[str, list[dict[str, Any]]] = {}
    trained: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name in turned(list(peers.LOGGERS), number):
            if (one := one_round(name, calls)) is not None:
                found.setdefault(name, []).append(one)
    for number in range(trainings):
        for name in turned(IN_A_TRAINER, number):
            if (one := one_training(name, steps)) is not None:
                trained.setdefault(name, []).append(one)
    tables = [calls_table(found), footprint_table(found)]
    if trained:
        tables.append(trainer_table(trained))
    return Result(
        "What a logger costs",
        f"{calls} calls with ten metrics, {STEP_WORK_SECONDS * 1e3:.0f} ms of work between two of them, {rounds} rounds; then {steps} steps"
        f" of a small model in transformers' Trainer at logging_steps=1, {trainings} rounds. All contenders in turn. The best round counts"
        f" for times of calls and callbacks, the median one for memory and for the time from finish until the process is gone. Whole steps"
        f" and whole trainings differ more from round to round than from logger to logger: told is the median of what each adds to no"
        f" logger in the same round. trainbus runs with its broker, which counts as a process.",
        tables,
        bars(found, trained),
        peers.versions() | {"transformers": absent_or_version("transformers"), "torch": absent_or_version("torch")},
        {"calls": found, "trainer": trained},
    )


def turned(names: list[str], number: int) -> list[str]:
    """Another one begins each round."""
    place = number % len(names)
    return names[place:] + names[:place]


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
            min(one["finish"] for one in ones) * 1e3,
            median(ones, "gone") * 1e3,
            median(ones, "own"),
            median(ones, "others"),
            int(median(ones, "processes")),
            int(median(ones, "threads")),
        ]
        for name, ones in found.items()
    ]
    columns = ["", "start, s", "finish, ms", "finish until the process is gone, ms", "MiB in the training process", "MiB in others"]
    return Table("what it adds", [*columns, "processes", "threads in training"], rows)


def added(trained: dict[str, list[dict[str, Any]]], name: str, read: Callable[[dict[str, Any]], float]) -> list[float]:
    """What a logger adds to no logger, round by round: within one the machine was the same."""
    return [read(one) - read(alone) for one, alone in zip(trained[name], trained[peers.Logger.name], strict=False)]


def step_milliseconds(one: dict[str, Any]) -> float:
    return float(one["step"]["p50"])


def whole_milliseconds(one: dict[str, Any]) -> float:
    return float(one["whole"]) * 1e3


def trainer_table(trained: dict[str, list[dict[str, Any]]]) -> Table:
    rows: list[list[str | float | int]] = []
    for name, ones in trained.items():
        row: list[str | float | int] = [name, *(best(ones, "callbacks", figure) for figure in ("p50", "p95", "p99"))]
        for read in (step_milliseconds, whole_milliseconds):
            more = added(trained, name, read)
            row += [statistics.median(map(read, ones))]
            row += [f"{statistics.median(more):+,.2f}", spread(more, 2)] if name != peers.Logger.name else ["", ""]
        rows.append(row)
    columns = [
        "",
        "callbacks, µs: p50",
        "p95",
        "p99",
        "step, ms",
        "added",
        "over the rounds",
        "whole training, ms",
        "added",
        "over the rounds",
    ]
    return Table("a Trainer at logging_steps=1", columns, rows)


def bars(found: dict[str, list[dict[str, Any]]], trained: dict[str, list[dict[str, Any]]]) -> list[Bar]:
    """trainbus over the best peer, in each column that a training feels: at most 1."""
    ours, alone = peers.Trainbus.name, peers.Logger.name
    made = []

    def bar(what: str, figures: dict[str, float]) -> None:
        cheapest = min(figure for name, figure in figures.items() if name not in (ours, alone))
        made.append(Bar(f"{what}, over the cheapest peer's", figures[ours] / cheapest, 1.0, "x"))

    if len(found) > 2:
        for figure in ("p50", "p95", "p99", "max"):
            bar(f"a call, {figure}", {name: best(ones, "call", figure) for name, ones in found.items()})
        for key in ("start", "finish"):
            bar(key, {name: min(one[key] for one in ones) for name, ones in found.items()})
        bar("finish until the process is gone", {name: median(ones, "gone") for name, ones in found.items()})
        bar("memory in the training process", {name: median(ones, "own") for name, ones in found.items()})
    if len(trained) > 2:
        for figure in ("p50", "p99"):
            bar(f"a Trainer's step, callbacks, {figure}", {name: best(ones, "callbacks", figure) for name, ones in trained.items()})
        for what, read in (("a Trainer's step, added", step_milliseconds), ("a whole training, added", whole_milliseconds)):
            bar(what, {name: statistics.median(added(trained, name, read)) for name in trained})
    return made
