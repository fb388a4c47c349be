"""``trainbus runs``: list, show, export and delete."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
from rich.text import Text

from trainbus.bus.client import Client
from trainbus.bus.events import Alert, Checkpoint, Eval, Gap, RunEnded, RunStarted, Step
from trainbus.bus.wire import RunInfo
from trainbus.cli.history import known_run
from trainbus.cli.journal_trim import DELETION_SECONDS
from trainbus.cli.options import json_option, yes_option
from trainbus.cli.output import age, number, print_json, print_table, progress, state, stdout, table
from trainbus.cli.render import line
from trainbus.cli.run_export import export_command

WORTH_SHOWING = 5
"""Checkpoints, evaluations and alerts of each sort that `runs show` lists: the last ones."""


@click.group(name="runs")
def command() -> None:
    """Runs in the journal. RUN is an id or its beginning."""


command.add_command(export_command)


@command.command(name="list")
@click.option(
    "--state", "wanted", multiple=True, metavar="STATE", help="Only running, completed, stopped, failed or lost ones. Repeatable."
)
@json_option
def list_(wanted: tuple[str, ...], as_json: bool) -> None:
    """List all runs, newest first."""
    with Client() as client:
        found = [run for run in client.runs() if not wanted or run.state in wanted]
    if as_json:
        print_json(found)
        return
    rows = (
        (run.run, run.name, state(run.state), _steps(run), age(run.started), age(run.updated), number(run.events), run.host)
        for run in found
    )
    made = table("run", "name", "state", "step", "started", "last event", "events", "host", rows=rows, right=("step", "events"))
    print_table(made, empty="There is no such run." if wanted else "The journal has no run yet.")


def _steps(run: RunInfo) -> str:
    if run.last_step is None:
        return ""
    return f"{run.last_step:,} / {run.total_steps:,}" if run.total_steps else f"{run.last_step:,}"


@command.command()
@click.argument("run")
@json_option
def show(run: str, as_json: bool) -> None:
    """Show a run: how it began, where it stands, its last metrics, evaluations, checkpoints and alerts."""
    with Client() as client:
        info = known_run(client, run)
        summary = summarize(client, info)
    if as_json:
        print_json(summary)
        return
    console = stdout()
    console.print(Text.assemble((info.run, "bold"), "  ", state(info.state), f"  {info.name}  on {info.host or '?'}  {info.reason}"))
    console.print(f"step {_steps(info) or '-'}  started {age(info.started)}  last event {age(info.updated)}  {number(info.events)} events")
    counts = "  ".join(f"{kind} {number(count)}" for kind, count in summary["kinds"].items())
    console.print(Text(counts, style="dim"))
    started = summary["started"]
    if started is not None and started.config:
        console.print(table("config", "value", rows=((key, str(value)) for key, value in started.config.items())))
    for title in ("last_step", "evaluations", "checkpoints", "alerts", "gaps", "ended"):
        events = summary[title] if isinstance(summary[title], list) else [summary[title]] if summary[title] else []
        for event in events:
            console.print(line(event), soft_wrap=True)


def summarize(client: Client, info: RunInfo) -> dict[str, Any]:
    """What `runs show --json` prints: the run, its events counted by kind, and the last events of each sort."""
    kinds: Counter[str] = Counter()
    last: dict[type, list[Any]] = {cls: [] for cls in (RunStarted, RunEnded, Step, Eval, Checkpoint, Alert, Gap)}
    with progress(f"reading {info.run}", total=info.events) as bar:
        for event in client.events(runs=[info.run]):
            kinds[event.kind] += 1
            kept = last.get(type(event))
            if kept is not None:
                kept.append(event)
                del kept[:-WORTH_SHOWING]
            bar.advance(bar.task_ids[0])
    newest = {cls: events[-1] if events else None for cls, events in last.items()}
    return {
        "run": info,
        "kinds": dict(sorted(kinds.items())),
        "started": newest[RunStarted],
        "last_step": newest[Step],
        "evaluations": last[Eval],
        "checkpoints": last[Checkpoint],
        "alerts": last[Alert],
        "gaps": last[Gap],
        "ended": newest[RunEnded],
    }


@command.command()
@click.argument("run")
@click.option("--force", is_flag=True, help="Also while it is running.")
@yes_option
@json_option
def delete(run: str, force: bool, yes: bool, as_json: bool) -> None:
    """Delete a run's events from the journal. Checkpoints and other files stay."""
    with Client() as client:
        info = known_run(client, run)
        if not yes:
            click.confirm(f"Delete {info.run} ({info.state}, {number(info.events)} events) for good?", abort=True, err=True)
        events = client.delete_run(info.run, force=force, timeout=DELETION_SECONDS)
    if as_json:
        print_json({"run": info.run, "events": events})
    else:
        click.echo(f"{info.run} is deleted ({number(events)} events).")
