"""`trainbus serve` asked about itself: what it serves, its jobs, GPUs, machine, power and log. For any other server use `Server`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec import Struct

from trainbus.errors import RefusedError
from trainbus.inferring.server import Server

T = TypeVar("T")

LOOK_SECONDS = 0.5
"""Between two looks at a job that is waited for."""
OVER = ("done", "failed", "cancelled")


class Info(Struct):
    """What ``/info`` tells that people read; ``jobs`` is how many are in each state."""

    version: str
    uptime: float
    active: str
    models: list[str]
    device: str
    requests: int
    errors: int
    jobs: dict[str, int]


class Job(Struct):
    """One job. ``result`` of an examination has accuracy, correct, total and avg_loss, as far as they were asked for."""

    id: str
    kind: str
    model: str
    state: str
    done: int = 0
    total: int = 0
    result: dict[str, Any] | None = None
    error: str = ""


class Jobs(Struct):
    """``/jobs``."""

    jobs: list[Job]


class Gpu(Struct):
    """One GPU; what it does not tell is None. Bytes, watts, °C, percent."""

    index: int
    name: str = ""
    temperature: float | None = None
    utilization: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power: float | None = None
    power_limit: float | None = None
    profile: str | None = None


class Gpus(Struct):
    """``/gpu``; ``reason`` says why there are none."""

    gpus: list[Gpu]
    reason: str = ""


class Power(Struct):
    """``/power``: watts of each profile, and how each GPU is set."""

    profiles: dict[str, int]
    gpus: list[Gpu]
    reason: str = ""


class System(Struct):
    """What ``/system`` tells that people read. Bytes."""

    host: str
    platform: str
    cpus: int
    load: list[float]
    memory_total: int
    memory_available: int
    disk: dict[str, int] = {}


class Log(Struct):
    """``/logs``."""

    lines: list[str]


class Administration:
    """Every method raises a `TrainbusError` when the server can't be reached, refuses, or answers something else."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def alive(self) -> bool:
        """Whether it says so; anybody may ask."""
        return self._server.request("GET", "/health", dict[str, Any], "state").get("status") == "ok"

    def info(self) -> Info:
        """What it serves, with counts."""
        return self._server.request("GET", "/info", Info, "server's facts")

    def system(self) -> System:
        """Its machine."""
        return self._server.request("GET", "/system", System, "machine's facts")

    def gpus(self) -> Gpus:
        """Its GPUs."""
        return self._server.request("GET", "/gpu", Gpus, "list of GPUs")

    def power(self) -> Power:
        """Its power profiles."""
        return self._server.request("GET", "/power", Power, "list of power profiles")

    def set_power(self, profile: str, gpu: int | None = None) -> Power:
        """Set a profile, of one GPU or of all."""
        return self._server.request("POST", "/power", Power, "list of power profiles", {"profile": profile, "gpu": gpu})

    def log(self, lines: int) -> list[str]:
        """The last lines of its log."""
        return self._server.request("GET", f"/logs?lines={lines}", Log, "log").lines

    def jobs(self) -> list[Job]:
        """All that it still tells of."""
        return self._server.request("GET", "/jobs", Jobs, "list of jobs").jobs

    def job(self, identity: str) -> Job:
        """One of them."""
        return self._server.request("GET", f"/jobs/{quote(identity, safe='')}", Job, "job")

    def cancel(self, identity: str) -> Job:
        """End one."""
        return self._server.request("DELETE", f"/jobs/{quote(identity, safe='')}", Job, "job")

    def examine(self, model: str, examples: Sequence[dict[str, Any]], *, max_tokens: int) -> Job:
        """Begin to examine a model: ``prompt`` or ``messages``, and ``answer``, of each example."""
        body = {"model": model, "examples": examples, "max_samples": max(1, len(examples)), "max_tokens": max_tokens}
        return self._server.request("POST", "/eval/jobs", Job, "job", body)

    def write(self, model: str, prompts: Sequence[str], *, max_tokens: int) -> Job:
        """Begin to answer prompts; the result holds the answers."""
        return self._server.request("POST", "/data/jobs", Job, "job", {"model": model, "prompts": prompts, "max_tokens": max_tokens})

    def wait(self, job: Job, told: Callable[[Job], None] = lambda job: None) -> Job:
        """The job when it is over; ``told`` gets it at each look.

        Raises:
            RefusedError: It failed or was cancelled.
        """
        while job.state not in OVER:
            told(job)
            time.sleep(LOOK_SECONDS)
            job = self.job(job.id)
        if job.state != "done":
            raise RefusedError(f"Job {job.id} {job.state}: {job.error or 'nobody says why'}", hint="The server's log may tell more.")
        return job
