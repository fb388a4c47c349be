"""``trainbus checkpoints``: list, plan and prune; the other commands are in modules of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from trainbus.cli.checkpoint_changes import CHANGES
from trainbus.cli.checkpoint_comparison import compare_
from trainbus.cli.checkpoint_scope import Scope, retention_settings, scope, target_argument, without_bus_option
from trainbus.cli.checkpoint_versions import VERSIONS
from trainbus.cli.options import config_options, json_option, yes_option
from trainbus.cli.output import age, duration, note, number, print_json, print_table, size, stdout, table
from trainbus.errors import ModelError, RefusedError, TrainbusError
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import Decision, Plan
from trainbus.plugins.retention.records import Record, position
from trainbus.plugins.retention.returning import bytes_per_second
from trainbus.plugins.retention.sweeper import empty
from trainbus.plugins.retention.verify import verify

METRICS_SHOWN = 3
TIMINGS = ("_runtime", "_per_second")
"""How transformers ends the names of what says nothing of a model."""


@click.group(name="checkpoints")
def command() -> None:
    """List, prune, pin, verify and restore checkpoints; make versions of them.

    TARGET is a run (its id or the beginning of it; its bus is asked), or a directory of checkpoints, also one that
    trainbus never saw. Without it: the one run that is running. Policies are those of [plugin.retention] in
    trainbus.toml; --set keep_newest=3 overrides one.
    """


@command.command(name="list")
@target_argument
@click.option("--trash", is_flag=True, help="What lies in the trash instead.")
@config_options
@json_option
def list_(target: str | None, trash: bool, config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List checkpoints by step: size, metrics, state, and why each is kept."""
    config = retention_settings(config_path, overrides)
    with scope(target) as found:
        if trash:
            _list_trash(found, as_json)
            return
        made = found.plan(config, time.time_ns())
        if as_json:
            rows = [_row(decision) for decision in made.decisions]
            print_json({"target": found.name, "checkpoints": rows, "unfinished": [str(path) for path in found.unfinished]})
            return
        _print_decisions(made.decisions, empty_text=f"{found.name} has no checkpoints.")
        for path in found.unfinished:
            note(f"{path} is no whole checkpoint: it is being written, or a killed process left it. It is left alone.")


@command.command(name="plan")
@target_argument
@config_options
@json_option
def plan_(target: str | None, config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what would go and why, how much that frees, and when the disk is full at the present rate. Changes nothing."""
    config = retention_settings(config_path, overrides)
    with scope(target) as found:
        made = found.plan(config, time.time_ns())
        if as_json:
            print_json(_document(found, made))
            return
        _print_plan(found, made)


@command.command()
@target_argument
@config_options
@click.option(
    "--quick", is_flag=True, help="Read no contents: the newest is verified by sizes, the ledger gets no digests of what has none."
)
@click.option("--empty", "empty_now", is_flag=True, help="Delete for good at once instead of leaving it in the trash.")
@without_bus_option
@yes_option
@json_option
def prune(
    target: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    quick: bool,
    empty_now: bool,
    without_bus: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Put into the trash what no policy keeps. Shows the plan and asks first; with --json and without --yes it only shows it.

    The newest checkpoint is verified before anything goes. What is leased, pinned or being written stays. `trainbus
    checkpoints restore` undoes it until the trash is emptied. Exit code 4: something was held back at the last moment.
    """
    config = retention_settings(config_path, overrides)
    with scope(target, acting=True, without_bus=without_bus) as found:
        made = found.plan(config, time.time_ns())
        if not as_json:
            _print_plan(found, made)
        victims = {decision.record.id for decision in made.decisions if decision.action != "keep"}
        if as_json and not yes:
            print_json({**_document(found, made), "done": False})
            return 0
        if victims and not yes:
            click.confirm(f"Move {len(victims)} of {len(made.decisions)} into the trash?", abort=True, err=True)
    if not victims:
        if as_json:
            print_json({**_document(found, made), "done": True, "held_back": {}})
        return 0
    # The person may have thought for an hour: everything is read again, and only what still is to go does.
    with scope(target, acting=True, without_bus=without_bus) as found:
        made = found.plan(config, time.time_ns())
        going = [decision for decision in made.decisions if decision.action != "keep" and decision.record.id in victims]
        require_whole_newest(going, made.decisions, quick=quick)
        held_back = {
            decision.record.id: why for decision in going if (why := take(found, decision, config, empty_now=empty_now, quick=quick))
        }
        if as_json:
            print_json({**_document(found, made), "done": True, "held_back": held_back})
        else:
            freed = sum(decision.frees for decision in going if decision.record.id not in held_back)
            where = "deleted" if empty_now else "in the trash; `trainbus checkpoints restore` brings them back"
            stdout().print(f"{len(going) - len(held_back)} checkpoints, {size(freed)}: {where}.")
            for identity, why in held_back.items():
                note(f"{identity} stays: {why}")
    return RefusedError.exit_code if held_back else 0


for _command in (*CHANGES, compare_, *VERSIONS):
    command.add_command(_command)


def require_whole_newest(going: Sequence[Decision], decisions: Sequence[Decision], *, quick: bool) -> None:
    """Look at the newest of each run that loses checkpoints.

    Raises:
        ModelError: The newest is not whole; nothing was deleted.
    """
    for run in {decision.record.run for decision in going}:
        newest = max((decision.record for decision in decisions if decision.record.run == run), key=position)
        faults = verify(Path(newest.path), contents=not quick).faults
        if faults:
            problem = f"The newest checkpoint, {newest.path}, is not whole: {'; '.join(faults[:3])}. Nothing was deleted."
            raise ModelError(problem, hint="Move it away, then prune again; older ones may be all that is left.", file=newest.path)


def take(found: Scope, decision: Decision, config: RetentionConfig, *, empty_now: bool, quick: bool) -> str:
    """Put a checkpoint into the trash, or thin it, under an exclusive lease, and tell the bus.

    Returns:
        Why it was held back; empty when it is done.
    """
    record, trash = decision.record, found.trash_of(decision.record)
    if not record.digest and not quick:
        record.digest = verify(Path(record.path)).digest  # the ledger shall tell what it was
    try:
        with found.lease(record, "exclusive", "prune"):
            put = trash.thin if decision.action == "thin" else trash.put
            thing = put(record, reason=decision.reason, policy=decision.limit, roots=config.roots)
    except (TrainbusError, OSError) as error:
        return error.problem if isinstance(error, TrainbusError) else str(error)
    if decision.action == "delete":
        found.tell(record, "deleted", decision.reason)
    if empty_now:
        empty(trash, thing)
    return ""


def _print_plan(found: Scope, made: Plan) -> None:
    goes = [decision for decision in made.decisions if decision.action != "keep"]
    _print_decisions(goes, empty_text=f"Nothing would go: all {len(made.decisions)} checkpoints are kept.")
    console = stdout()
    if goes:
        console.print(f"{len(goes)} of {len(made.decisions)} would go, which frees {size(made.frees)}.")
    for disk in found.disks():
        left = _seconds_left(found, disk.free)
        full = f"; full in {duration(left)} at the present rate" if left is not None else ""
        console.print(f"{disk.name}: {size(disk.free)} of {size(disk.total)} free, {size(disk.trash)} in the trash{full}.")
    for unmet in made.unmet:
        console.print(Text(f"{unmet.limit}, and {size(unmet.missing)} are missing. In the way:", style="yellow"))
        for reason, taken in unmet.in_the_way.items():
            console.print(f"  {size(taken)}: {reason}")


def _seconds_left(found: Scope, free: int) -> float | None:
    rate = bytes_per_second(found.records)
    return free / rate if rate else None


def _print_decisions(decisions: list[Decision], *, empty_text: str) -> None:
    made = table("step", "state", "size", "completed", "metrics", "why", right=("step", "size"))
    for decision in decisions:
        record = decision.record
        made.add_row(number(record.step), _state(decision), size(record.bytes), age(record.time), metrics_line(record), decision.reason)
    print_table(made, empty=empty_text)


def _state(decision: Decision) -> Text:
    if decision.action == "keep":
        return Text("protected", style="green") if decision.protected else Text("kept", style="cyan")
    return Text("goes" if decision.action == "delete" else "thinner", style="yellow")


def metrics_line(record: Record) -> str:
    """What was measured on a checkpoint, without timings, as it fits into a table."""
    shown = [(name, value) for name, value in record.metrics.items() if not name.endswith(TIMINGS)][:METRICS_SHOWN]
    return "  ".join(f"{name} {number(value)}" for name, value in shown)


def _row(decision: Decision) -> dict[str, Any]:
    record = decision.record
    return {
        "id": record.id,
        "run": record.run,
        "step": record.step,
        "path": record.path,
        "bytes": record.bytes,
        "completed": record.time,
        "metrics": record.metrics,
        "thinned": record.thinned,
        "action": decision.action,
        "protected": decision.protected,
        "reasons": list(decision.reasons),
        "frees": decision.frees,
    }


def _document(found: Scope, made: Plan) -> dict[str, Any]:
    disks = [
        {"name": disk.name, "total": disk.total, "free": disk.free, "trash": disk.trash, "full_in": _seconds_left(found, disk.free)}
        for disk in found.disks()
    ]
    return {
        "target": found.name,
        "delete": [_row(decision) for decision in made.decisions if decision.action == "delete"],
        "thin": [_row(decision) for decision in made.decisions if decision.action == "thin"],
        "keep": [_row(decision) for decision in made.decisions if decision.action == "keep"],
        "frees": made.frees,
        "disks": disks,
        "unmet": made.unmet,
    }


def _list_trash(found: Scope, as_json: bool) -> None:
    things = [thing for _, thing in found.storage.contents()]
    if as_json:
        print_json([{"place": str(thing.place), "restorable": not thing.emptying, "entry": thing.entry} for thing in things])
        return
    rows = (
        (
            number(thing.entry.step),
            "optimizer state" if thing.thinned else "checkpoint",
            size(thing.entry.bytes),
            age(thing.entry.time),
            thing.entry.who,
            "being emptied" if thing.emptying else thing.entry.reason,
        )
        for thing in things
    )
    print_table(table("step", "what", "size", "trashed", "by", "why", rows=rows, right=("step", "size")), empty="The trash is empty.")
