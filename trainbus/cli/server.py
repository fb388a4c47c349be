"""``trainbus server``: a running `trainbus serve` asked about itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec import to_builtins
from rich.text import Text

from trainbus.cli.infer_options import open_server
from trainbus.cli.options import json_option
from trainbus.cli.output import duration, note, number, print_json, print_table, size, state, stdout, table
from trainbus.errors import DataError
from trainbus.inferring.administration import Administration, Gpu, Gpus, Job, Power
from trainbus.plugins.inference.questions import load

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8790"
"""Where `trainbus serve` answers unless told."""
SECONDS = 30.0
"""For one answer about itself."""


@click.group(name="server")
def command() -> None:
    """Ask a running `trainbus serve` what it does: models, jobs, GPUs, machine, power, log."""


def asked(function: F) -> F:
    """``--server``, ``--api-key-env`` and ``--json``; the command gets an `Administration` as ``server``."""

    def run(server: str, api_key_env: str, **more: Any) -> Any:
        return function(server=Administration(open_server(server, api_key_env, SECONDS)), **more)

    run.__doc__, run.__name__ = function.__doc__, function.__name__
    key = click.option("--api-key-env", metavar="NAME", default="", help="The environment variable that holds the server's key.")
    where = click.option("--server", metavar="URL", default=DEFAULT_URL, show_default=True, help="Its address.")
    decorated: F = where(key(json_option(run)))  # type: ignore[assignment]
    return decorated


@command.command()
@asked
def status(server: Administration, as_json: bool) -> None:
    """Whether it answers, what it serves, and how much it has done."""
    health, info = "ok" if server.alive() else "not ok", server.info()
    if as_json:
        print_json(info)
        return
    jobs = ", ".join(f"{count} {word}" for word, count in info.jobs.items() if count) or "none"
    models, requests = ", ".join(info.models) or "none", f"{info.requests:,}, {info.errors:,} failed"
    _facts(
        ("health", health), ("version", info.version), ("up for", duration(info.uptime)), ("device", info.device),
        ("active model", info.active or "none"), ("models", models), ("requests", requests), ("jobs", jobs),
    )  # fmt: skip


@command.command()
@asked
def jobs(server: Administration, as_json: bool) -> None:
    """Its jobs, those that are over included."""
    found = server.jobs()
    if as_json:
        print_json(found)
        return
    rows = ((job.id, job.kind, job.model or "active", state(job.state), f"{job.done}/{job.total}") for job in found)
    print_table(table("job", "kind", "model", "state", "done", rows=rows), empty="It has no jobs.")


@command.command()
@click.argument("identity", metavar="JOB")
@click.option("--cancel", is_flag=True, help="End it.")
@asked
def job(server: Administration, identity: str, cancel: bool, as_json: bool) -> None:
    """One job with its result."""
    _print_job(server.cancel(identity) if cancel else server.job(identity), as_json)


@command.command()
@click.argument("questions", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--model", default="", help="Which one; the active one by default.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Only the first so many questions.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="The longest answer.")
@click.option("--no-wait", is_flag=True, help="Only begin; `trainbus server job` tells the result.")
@asked
def examine(server: Administration, questions: Path, model: str, limit: int, max_tokens: int, no_wait: bool, as_json: bool) -> None:
    """Have a model answer QUESTIONS (JSON Lines of this machine), as a job there: accuracy, correct, total, avg_loss."""
    found = [one for one in load(questions, limit=limit) if one.messages and one.expected is not None]
    if not found:
        raise DataError(f"{questions} has no question with an answer.", hint='A line looks like {"question": "2 + 2?", "answer": "4"}.')
    examples = [{"messages": list(one.messages), "answer": one.expected} for one in found]
    begun = server.examine(model, examples, max_tokens=max_tokens)
    if not no_wait:
        note(f"job {begun.id}")
        begun = server.wait(begun)
    _print_job(begun, as_json)


@command.command()
@asked
def gpu(server: Administration, as_json: bool) -> None:
    """Its GPUs."""
    _print_gpus(server.gpus(), as_json)


@command.command()
@click.argument("profile", required=False)
@click.option("--gpu", "index", type=click.IntRange(min=0), help="Of this GPU alone.")
@asked
def power(server: Administration, profile: str | None, index: int | None, as_json: bool) -> None:
    """Its power profiles, and how its GPUs are set; with PROFILE, set that one (an administrator's key, and a server that may)."""
    found = server.set_power(profile, index) if profile else server.power()
    if not as_json:
        note("profiles: " + ", ".join(f"{name} {watts} W" for name, watts in found.profiles.items()))
    _print_gpus(found, as_json)


@command.command()
@asked
def system(server: Administration, as_json: bool) -> None:
    """Its machine."""
    found = server.system()
    if as_json:
        print_json(found)
        return
    disk = f"{size(found.disk['free'])} of {size(found.disk['total'])} free" if {"free", "total"} <= set(found.disk) else None
    _facts(
        ("host", found.host), ("system", found.platform), ("processors", str(found.cpus)),
        ("load", " ".join(f"{value:.2f}" for value in found.load)),
        ("memory", f"{size(found.memory_available)} of {size(found.memory_total)} free"), ("disk of the store", disk),
    )  # fmt: skip


@command.command()
@click.option("--lines", type=click.IntRange(1, 2_000), default=100, show_default=True, help="The last so many.")
@asked
def logs(server: Administration, lines: int, as_json: bool) -> None:
    """Its log (an administrator's key)."""
    found = server.log(lines)
    if as_json:
        print_json(found)
        return
    for line in found:
        stdout().print(Text(line), soft_wrap=True)


def _facts(*rows: tuple[str, str | None]) -> None:
    made = table("", "", rows=[row for row in rows if row[1]])
    made.show_header = False
    stdout().print(made)


def _print_job(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    result = [(name, number(value) if isinstance(value, int | float) else str(value)) for name, value in (job.result or {}).items()]
    progress = f"{job.done} of {job.total}"
    _facts(("job", job.id), ("model", job.model or "active"), ("state", job.state), ("done", progress), ("error", job.error), *result)


def _print_gpus(found: Gpus | Power, as_json: bool) -> None:
    if as_json:
        print_json(to_builtins(found))
        return
    made = table("gpu", "name", "°C", "busy", "memory", "power", "limit", "profile", rows=map(_gpu, found.gpus))
    print_table(made, empty=f"It has no GPU that can be asked. {found.reason}".strip())


def _gpu(gpu: Gpu) -> tuple[str | None, ...]:
    memory = None if gpu.memory_used is None else f"{size(gpu.memory_used)} of {size(gpu.memory_total)}"
    busy = None if gpu.utilization is None else f"{gpu.utilization:.0f} %"
    power, limit = (None if watts is None else f"{watts:.0f} W" for watts in (gpu.power, gpu.power_limit))
    return str(gpu.index), gpu.name, number(gpu.temperature), busy, memory, power, limit, gpu.profile
