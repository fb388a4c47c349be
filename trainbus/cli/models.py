"""``trainbus models``: what can be asked: checkpoints of runs, folders, a server's models; look at one, save it, delete it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from trainbus.bus.client import Client
from trainbus.cli.checkpoint_scope import CONNECT_TIMEOUT, retention_settings, scope, target_argument
from trainbus.cli.checkpoints import metrics_line
from trainbus.cli.infer_options import open_server, server_options
from trainbus.cli.models_changes import CHANGES
from trainbus.cli.models_named import Named, every_checkpoint, label, named_model
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import age, number, print_json, print_table, size, stdout, table
from trainbus.errors import RefusedError, UnreachableError
from trainbus.inferring.inspecting import Inspection, inspect
from trainbus.inferring.names import choose, policies_for
from trainbus.plugins.retention.pins import pin_of
from trainbus.plugins.retention.policies import BestConfig
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.verify import kind_of


@click.group(name="models")
def command() -> None:
    """List, look at, save and delete models: checkpoints of runs, other folders; list those of a server.

    NAME is a folder, or a checkpoint: RUN:STEP, RUN:latest, RUN:best, RUN:best:METRIC, where RUN is a run (its id or the beginning
    of it) or a folder of checkpoints. Without RUN: the run that is running, or the last that left a checkpoint here.
    """


@command.command(name="list")
@target_argument
@server_options
@config_options
@json_option
def list_(
    target: str | None,
    server: str | None,
    api_key_env: str,
    timeout: float,
    config_path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """List the checkpoints of all runs on this machine, of TARGET (a run or a folder), or the models of a server.

    What stands in the first column is understood by `trainbus infer --model`.
    """
    if server:
        names = open_server(server, api_key_env, timeout).models()
        if as_json:
            print_json([{"name": name} for name in names])
        else:
            print_table(table("model", rows=((name,) for name in names)), empty=f"{server} serves no model.")
        return
    policies = retention_settings(config_path, overrides).keep_best
    records = _records(target)
    rows = [_row(record, marks, target or "") for record, marks in _marked(records, policies)]
    if as_json:
        print_json(rows)
        return
    made = table("name", "kind", "size", "completed", "metrics", "marks", right=("size",))
    for record, row in zip(records, rows, strict=True):
        cells = (row["name"], row["kind"], size(record.bytes), age(record.time), metrics_line(record), "; ".join(row["marks"]))
        made.add_row(*(Text(cell) for cell in cells))
    print_table(made, empty=f"{target or 'No run here'} has no checkpoints.")


@command.command()
@click.argument("name")
@config_options
@json_option
def info(name: str, config_path: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Tell what NAME is: architecture, parameters, adapter and base, metrics, and why retention keeps it or not."""
    config = retention_settings(config_path, overrides)
    with named_model(name, policies=config.keep_best) as found:
        if not found.local:
            raise RefusedError(
                f"{name} is no folder and no checkpoint here.", hint="Only models on this machine can be looked at.", code="unknown"
            )
        looked = inspect(Path(found.place))
        decision = None
        if found.scope is not None and found.record is not None:
            made = found.scope.plan(config, time.time_ns())
            decision = next(one for one in made.decisions if one.record.id == found.record.id)
        if as_json:
            fate = {"action": decision.action, "protected": decision.protected, "reasons": list(decision.reasons)} if decision else None
            print_json({"name": found.label, "why": found.why, "record": found.record, "model": looked, "retention": fate})
            return
        told = f"{'protected' if decision.protected else decision.action}: {decision.reason}" if decision else None
        made_table = table("", "", rows=[row for row in (*_facts(found, looked), ("retention", told)) if row[1]])
        made_table.show_header = False
        stdout().print(made_table)


for _command in CHANGES:
    command.add_command(_command)


def _records(target: str | None) -> list[Record]:
    if target is not None:
        with scope(target) as found:
            return found.records
    with Client(timeout=CONNECT_TIMEOUT) as client:
        try:
            return every_checkpoint(client)
        except UnreachableError as error:
            hint = "Start it with `trainbus up`, or name a folder: `trainbus models list runs/NAME`."
            raise UnreachableError(error.problem, hint=hint, **error.facts) from error


def _marked(records: Sequence[Record], policies: Sequence[BestConfig]) -> Iterable[tuple[Record, list[str]]]:
    """Each with why one would ask for it."""
    marks: dict[str, list[str]] = {}
    for run in dict.fromkeys(record.run for record in records):
        ordered = [record for record in records if record.run == run]
        for which in ("latest", *(f"best:{policy.metric}" for policy in policies_for("", policies))):
            try:
                record, _ = choose(ordered, which, policies, of=run)
            except RefusedError:
                continue
            marks.setdefault(record.id, []).append(which)
    for record in records:
        if (pin := pin_of(Path(record.path))) is not None:
            marks.setdefault(record.id, []).append(str(pin))
        if record.thinned:
            marks.setdefault(record.id, []).append("without optimizer state")
        yield record, marks.get(record.id, [])


def _row(record: Record, marks: list[str], target: str) -> dict[str, Any]:
    return {
        "name": label(record, target),
        "id": record.id,
        "run": record.run,
        "step": record.step,
        "kind": kind_of(Path(record.path)),
        "path": record.path,
        "bytes": record.bytes,
        "completed": record.time,
        "metrics": record.metrics,
        "marks": marks,
    }


def _facts(found: Named, looked: Inspection) -> Iterable[tuple[str, str | None]]:
    record, adapter = found.record, looked.adapter
    yield "name", f"{found.label}{f', {found.why}' if found.why else ''}"
    yield "folder", found.place
    yield "kind", looked.kind
    if adapter:
        yield "adapter", f"{adapter.type} rank {number(adapter.rank)}, alpha {number(adapter.alpha)}, on {', '.join(adapter.targets)}"
        yield "base", f"{adapter.base}{'' if adapter.base_found else ' (not on this machine)'}"
    types = ", ".join(f"{count:,} {name}" if len(looked.types) > 1 else name for name, count in looked.types.items())
    yield "parameters", f"{looked.parameters:,} ({types})" if looked.parameters else "not known: the weights are no safetensors"
    yield "size", f"{size(looked.bytes)} in {looked.files} files"
    shape = (("layers", looked.layers), ("hidden size", looked.hidden_size), ("vocabulary", looked.vocabulary), ("context", looked.context))
    yield "architecture", ", ".join([looked.architecture, *(f"{name} {value:,}" for name, value in shape if value is not None)])
    yield "tokenizer", f"{'there' if looked.tokenizer else 'missing'}{', with chat template' if looked.chat_template else ''}"
    if record:
        yield "checkpoint", f"{record.id}, completed {age(record.time)}"
        yield "metrics", "  ".join(f"{name} {number(value)}" for name, value in record.metrics.items())
