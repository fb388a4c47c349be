"""What a logger costs a training: time of a call between real work, start and finish, memory, processes, threads; and a Trainer's steps.

Every contender runs in a process of its own, all of them in turn, round after round, in another order each time. Memory is proportional
(PSS), so that pages that processes share count once. What a logger leaves to do at the program's exit counts, too: the time from
finish until the process is gone.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.common import figures, in_a_process, spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

MIB = 1024 * 1024
WARM_UP = 20
STEP_WORK_SECONDS = 0.005
TURN_SECONDS = 1.5
"""Long for whoever sends each half second, short for a machine that changes its pace."""
SKIPPED_STEPS = 2
"""Of each turn: a logger is told of a step after its end."""
COUNTED_SHARE = 0.98
ENDLESS = 10**6


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


def train(name: str, folder: str, turns: int) -> dict[str, Any] | None:
    """Steps of a small model at logging_steps=1, with the logger and without; None when logger or transformers are not installed."""
    os.environ |= {"TRAINBUS_HOME": folder, "WANDB_DIR": folder, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": folder}
    os.environ |= {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TENSORBOARD_LOGGING_DIR": folder, "TOKENIZERS_PARALLELISM": "false"}
    os.chdir(folder)
    try:
        import torch

        torch.set_num_threads(1)
        logger = peers.LOGGERS[name](Path(folder))
        if logger.package and absent_or_version(logger.package) == "absent":
            return None
        with contextlib.redirect_stdout(io.StringIO()):
            return _train(name, logger, Path(folder), turns)
    except ImportError:
        return None


def _train(name: str, logger: peers.Logger, folder: Path, turns: int) -> dict[str, Any]:
    import trainbus
    from benchmarks.callback import Stopwatch, make_trainer, time_events, time_methods
    from trainbus.trainer_node.callback import attach

    own = {type(callback) for callback in make_trainer(folder / "out", ENDLESS).callback_handler.callbacks}
    trainer = make_trainer(folder / "out", ENDLESS, logging_steps=1, report_to=logger.callbacks() or "none")
    handler, watch = trainer.callback_handler, Stopwatch()
    if name == peers.Swanlab.name:
        logger.start()  # transformers' callback expects a run that is open
    if name == peers.Aim.name:
        from aim.hugging_face import AimCallback

        trainer.add_callback(AimCallback(repo=str(folder), experiment="bench", system_tracking_interval=None, log_system_params=False))
    time_events(trainer, watch)
    finish = time_methods(trainer, watch)
    without = State([callback for callback in handler.callbacks if type(callback) in own], methods(trainer))
    with trainbus.init("benchmark") if name == peers.Trainbus.name else contextlib.nullcontext() as run:
        if run is not None:
            attach(trainer, run)
        finish()
        alternating = Turns(trainer, watch, without, State(handler.callbacks, methods(trainer)), turns)
        trainer.train()
    return alternating.found()


def methods(trainer: Any) -> dict[str, Any]:
    """What trainbus wraps of a trainer."""
    return {name: getattr(trainer, name) for name in ("training_step", "_get_grad_norm")}


class State(NamedTuple):
    """A Trainer with a logger, or without."""

    callbacks: list[Any]
    methods: dict[str, Any]


class Turns:
    """Takes a logger out of a training and puts it back, turn by turn: what the machine does to a step, it does to both kinds.

    It begins with a turn with the logger that does not count, and ends with one, so that the logger sees begin and end of the training.
    """

    def __init__(self, trainer: Any, watch: Any, without: State, with_it: State, turns: int) -> None:
        self._trainer, self._watch, self._left = trainer, watch, turns
        self._states = (without, with_it)
        self._steps: tuple[list[float], list[float]] = ([], [])
        self._callbacks: list[float] = []
        self._on, self._counts, self._seen = 1, False, 0
        self._last = self._began = time.perf_counter()
        self._lap, watch.lap = watch.lap, self._step_ended

    def _step_ended(self) -> None:
        self._lap()
        now = time.perf_counter()
        self._seen += 1
        if self._counts and self._seen > SKIPPED_STEPS:
            self._steps[self._on].append((now - self._last) * 1e3)
            if self._on:
                self._callbacks.append(self._watch.samples[-1] * 1e6)
        self._last = now
        if now - self._began > TURN_SECONDS:
            self._turn(now)

    def _turn(self, now: float) -> None:
        if not self._left:
            self._trainer.control.should_training_stop = True
            return
        self._left -= 1
        self._on, self._counts, self._seen, self._began = 1 - self._on, True, 0, now
        state = self._states[self._on]
        self._trainer.callback_handler.callbacks = state.callbacks
        for name, function in state.methods.items():
            setattr(self._trainer, name, function)

    def found(self) -> dict[str, Any]:
        """Means without the slowest, which belong to the machine."""
        without, with_it = (statistics.fmean(sorted(taken)[: int(len(taken) * COUNTED_SHARE)]) for taken in self._steps)
        return {"callbacks": figures(self._callbacks), "without": without, "with": with_it, "added": with_it - without}


def one_training(name: str, turns: int) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory(prefix="bench-cost-", ignore_cleanup_errors=True) as folder:
        try:
            with peers.LOGGERS[name](Path(folder)).server():
                return in_a_process(train, name, folder, turns)
        except SystemExit:  # it does not fit this transformers; its traceback was printed
            return None


IN_A_TRAINER = [name for name, one in peers.LOGGERS.items() if name not in (peers.MlflowLater.name, peers.MlflowServer.name)]


def bench(quick: bool) -> Result:
    rounds, calls, turns = (1, 100, 2) if quick else (5, 400, 6)
    found: dict[str, list[dict[str, Any]]] = {}
    trained: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name in turned(list(peers.LOGGERS), number):
            if (one := one_round(name, calls)) is not None:
                found.setdefault(name, []).append(one)
        for name in turned(IN_A_TRAINER, number):
            if (one := one_training(name, turns)) is not None:
                trained.setdefault(name, []).append(one)
    tables = [calls_table(found), footprint_table(found)]
    if trained:
        tables.append(trainer_table(trained))
    return Result(
        "What a logger costs",
        f"{rounds} rounds, all contenders in turn: {calls} calls with ten metrics, {STEP_WORK_SECONDS * 1e3:.0f} ms of work between two of"
        f" them; then a small model in transformers' Trainer at logging_steps=1, with the logger and without it in {turns} turns of"
        f" {TURN_SECONDS} s within one training. The best round counts for times of calls, start and finish, the median one for the rest;"
        f" a step is the mean without the slowest {1 - COUNTED_SHARE:.0%}. trainbus runs with its broker, which counts as a process.",
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


def trainer_table(trained: dict[str, list[dict[str, Any]]]) -> Table:
    rows: list[list[str | float | int]] = []
    for name, ones in trained.items():
        row: list[str | float | int] = [name, *(best(ones, "callbacks", figure) for figure in ("p50", "p95", "p99"))]
        more = [one["added"] * 1e3 for one in ones]
        rows.append([*row, median(ones, "without"), median(ones, "with"), statistics.median(more), spread(more, 0)])
    columns = ["", "in callbacks, µs: p50", "p95", "p99", "step without, ms", "with", "added, µs (median)", "over the rounds"]
    return Table("a step of a Trainer at logging_steps=1", columns, rows)


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
        bar("a Trainer's step, added", {name: median(ones, "added") for name, ones in trained.items()})
    return made
