"""Loggers that are used for training, behind one face: start, log, finish, and count what can be read back from the disk.

Each import happens where it is measured; a logger that is not installed raises ImportError. All run without an account and offline.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import METRICS, broker_process, free_port, wait_until
from benchmarks.frame import absent_or_version

Call = Callable[[int], object]


class Logger:
    """One contender. ``server`` runs what the logger talks to, where it has that; ``victim`` is the server process to kill."""

    name = "no logger"
    package = ""
    calls = 5_000
    """Of the loss test; fewer for one that needs minutes for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def server(self) -> Iterator[subprocess.Popen[bytes] | None]:
        """What must run before `start`."""
        yield None

    def start(self) -> Call:
        """In the training process: returns what logs ten metrics for a step."""

        def call(step: int) -> None:
            take(step, **METRICS)

        def take(step: int, **metrics: float) -> None:
            pass

        return call

    def finish(self) -> None:
        """In the training process: an orderly end."""

    def readable(self) -> int:
        """In another process, later: the calls that can be read back."""
        return 0

    def victim(self) -> int | None:
        """In the training process: the helper that holds what was logged; None when there is none."""
        return None

    def callbacks(self) -> list[str]:
        """``report_to`` of transformers' TrainingArguments."""
        return []


class Trainbus(Logger):
    name, package = "trainbus", "trainbus"

    @contextlib.contextmanager
    def server(self) -> Iterator[subprocess.Popen[bytes] | None]:
        with broker_process(self.folder) as process:
            yield process

    def start(self) -> Call:
        import trainbus

        self.run = trainbus.init("bench", root=self.folder)
        return lambda step: self.run.step(step, **METRICS)

    def finish(self) -> None:
        self.run.close()

    def readable(self) -> int:
        from trainbus import Subscriber
        from trainbus.bus.drain import drain_orphans

        with broker_process(self.folder):
            drain_orphans(self.folder)
            steps = []
            with Subscriber(kinds=["step"], root=self.folder) as subscriber:
                while (event := subscriber.next(2.0)) is not None:
                    steps.append(getattr(event, "step", -1))
        if steps != sorted(set(steps)):
            raise SystemExit("events came twice or out of order")
        return len(steps)


class Wandb(Logger):
    name, package = "wandb, offline", "wandb"

    def start(self) -> Call:
        os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(self.folder)}
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        self.run = wandb.init(mode="offline", dir=str(self.folder), project="bench", settings=settings)
        return lambda step: self.run.log(METRICS, step=step)

    def finish(self) -> None:
        self.run.finish()

    def victim(self) -> int | None:
        import psutil

        return next((child.pid for child in psutil.Process().children(recursive=True) if "wandb-core" in child.name()), None)

    def readable(self) -> int:
        from wandb.proto import wandb_internal_pb2

        found = 0
        for file in self.folder.glob("wandb/offline-run-*/*.wandb"):
            for body in log_records(file.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(body)
                found += record.WhichOneof("record_type") == "history"
        return found

    def callbacks(self) -> list[str]:
        return ["wandb"]


class Swanlab(Logger):
    name, package = "swanlab, offline", "swanlab"

    def start(self) -> Call:
        import swanlab

        with contextlib.redirect_stdout(io.StringIO()):
            swanlab.init(project="bench", logdir=str(self.folder), mode="offline")
        return lambda step: swanlab.log(METRICS, step=step)

    def finish(self) -> None:
        import swanlab

        swanlab.finish()

    def readable(self) -> int:
        from swanlab.proto.swanlab.record.v1 import record_pb2

        seen: dict[int, int] = {}
        for file in self.folder.rglob("*.swanlab"):
            for body in log_records(file.read_bytes()):
                record = record_pb2.Record()
                record.ParseFromString(body)
                if record.HasField("scalar"):
                    seen[record.scalar.step] = seen.get(record.scalar.step, 0) + 1
        return sum(count >= len(METRICS) for count in seen.values())

    def callbacks(self) -> list[str]:
        return ["swanlab"]


class Trackio(Logger):
    name, package = "trackio", "trackio"

    def start(self) -> Call:
        os.environ |= {"TRACKIO_DIR": str(self.folder), "HF_HUB_OFFLINE": "1"}
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
        return lambda step: trackio.log(METRICS, step=step)

    def finish(self) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()

    def readable(self) -> int:
        found = 0
        for file in self.folder.glob("*.db"):
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file)) as database:
                found += database.execute("SELECT count(DISTINCT step) FROM metrics").fetchone()[0]
        return found

    def callbacks(self) -> list[str]:
        return ["trackio"]


class Tensorboard(Logger):
    name, package = "tensorboard", "tensorboard"

    def start(self) -> Call:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder))

        def call(step: int) -> None:
            for name, value in METRICS.items():
                self.writer.add_scalar(name, value, step)

        return call

    def finish(self) -> None:
        self.writer.close()

    def readable(self) -> int:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        return min((len(events.Scalars(tag)) for tag in tags), default=0) if len(tags) == len(METRICS) else 0

    def callbacks(self) -> list[str]:
        return ["tensorboard"]


class Mlflow(Logger):
    name, package, calls = "mlflow", "mlflow", 500
    synchronous = True

    def start(self) -> Call:
        mlflow = self._open(f"sqlite:///{self.folder}/mlflow.db")
        self.run = mlflow.start_run()
        return lambda step: mlflow.log_metrics(METRICS, step=step, synchronous=self.synchronous)

    def _open(self, uri: str) -> Any:
        import logging

        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("bench")
        return mlflow

    def finish(self) -> None:
        import mlflow

        mlflow.end_run()

    def readable(self) -> int:
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            query = "SELECT count(*) FROM (SELECT step FROM metrics GROUP BY step HAVING count(DISTINCT key) >= ?)"
            return int(database.execute(query, (len(METRICS),)).fetchone()[0])

    def callbacks(self) -> list[str]:
        return ["mlflow"]


class MlflowLater(Mlflow):
    name, calls = "mlflow, asynchronous", 5_000
    synchronous = False


class MlflowServer(Mlflow):
    """Over HTTP, as a team has it; the only one of the peers whose server is a process of somebody else."""

    name, calls = "mlflow, with its server", 500

    @contextlib.contextmanager
    def server(self) -> Iterator[subprocess.Popen[bytes] | None]:
        port = free_port()
        (self.folder / "port").write_text(str(port))
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--default-artifact-root", str(self.folder), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(lambda: _answers(port), 120.0)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()

    def start(self) -> Call:
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        mlflow = self._open(f"http://127.0.0.1:{(self.folder / 'port').read_text()}")
        self.run = mlflow.start_run()
        return lambda step: mlflow.log_metrics(METRICS, step=step)


class Aim(Logger):
    name, package = "aim", "aim"

    def start(self) -> Call:
        from aim import Run

        options: dict[str, Any] = {"system_tracking_interval": None, "log_system_params": False, "capture_terminal_logs": False}
        self.run = Run(repo=str(self.folder), experiment="bench", **options)

        def call(step: int) -> None:
            for name, value in METRICS.items():
                self.run.track(value, name=name, step=step)

        return call

    def finish(self) -> None:
        self.run.close()

    def readable(self) -> int:
        """It reads empty until its index is made."""
        from aim import Repo

        command = [str(Path(sys.executable).parent / "aim"), "storage", "--repo", str(self.folder), "reindex", "-y"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, input=b"y\n", check=False)
        counts = [len(metric.values.sparse_list()[0]) for run in Repo(str(self.folder)).iter_runs() for metric in run.metrics()]
        return min(counts) if len(counts) == len(METRICS) else 0


LOGGERS: dict[str, type[Logger]] = {
    one.name: one for one in (Logger, Trainbus, Trackio, Tensorboard, Wandb, Swanlab, Mlflow, MlflowLater, MlflowServer, Aim)
}


def versions() -> dict[str, str]:
    """What is measured, and what is absent."""
    return {one.package: absent_or_version(one.package) for one in LOGGERS.values() if one.package}


def _answers(port: int) -> bool:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
        return bool(answer.status == 200)


# --- the log of records that wandb and swanlab write, whose form is LevelDB's -----------------------

_FILE_HEADER_BYTES, _BLOCK_BYTES, _RECORD_HEADER = 7, 32_768, struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def log_records(data: bytes) -> Iterable[bytes]:
    """The records of such a file, up to where it is torn."""
    position, parts = _FILE_HEADER_BYTES, b""
    while True:
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _RECORD_HEADER.size:
            position += left
        if position + _RECORD_HEADER.size > len(data):
            return
        _, length, kind = _RECORD_HEADER.unpack_from(data, position)
        position += _RECORD_HEADER.size
        if not kind or position + length > len(data):
            return
        body = data[position : position + length]
        position += length
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts


def busy(seconds: float = 0.005) -> None:
    """Work between two calls that empties the processor's caches, as a training step does."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        _work()


_memory = bytearray(8 * 1024 * 1024)


def _work() -> None:
    view = memoryview(_memory)
    for start in range(0, len(view), 1024 * 1024):
        sum(view[start : start + 1024 * 1024 : 64])
