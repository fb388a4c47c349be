"""``trainbus checkpoints pin|unpin|restore|verify|ledger``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from trainbus.bus.events import MARKER
from trainbus.cli.app import UsageError
from trainbus.cli.checkpoint_scope import Scope, person, scope, the_record, without_bus_option
from trainbus.cli.options import json_option
from trainbus.cli.output import clock, note, number, print_json, print_table, progress, size, state, stdout, table
from trainbus.errors import ModelError, RefusedError
from trainbus.plugins.retention.pins import Pin, pin, unpin
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.trash import Trash, Trashed
from trainbus.plugins.retention.verify import Verification, verify

in_option = click.option("--in", "target", metavar="TARGET", help="The run or directory that it belongs to, when CHECKPOINT is no path.")


@click.command(name="pin")
@click.argument("checkpoint")
@in_option
@click.option("--reason", default="", help="Why; the plan shows it.")
@without_bus_option
def pin_(checkpoint: str, target: str | None, reason: str, without_bus: bool) -> None:
    """Keep CHECKPOINT (a path, or an id or step with --in TARGET) until it is unpinned, whatever policies and limits say."""
    with one_checkpoint(checkpoint, target, acting=True, without_bus=without_bus) as (found, record), found.lease(record, "shared", "pin"):
        pin(Path(record.path), Pin(who=person(), why=reason, time=time.time_ns()))
        stdout().print(f"{record.path} is pinned.")


@click.command(name="unpin")
@click.argument("checkpoint")
@in_option
def unpin_(checkpoint: str, target: str | None) -> None:
    """Let policies and limits decide about CHECKPOINT again."""
    with one_checkpoint(checkpoint, target) as (_, record):
        had = unpin(Path(record.path))
        stdout().print(f"{record.path} is {'not pinned any more' if had else 'not pinned'}.")


@click.command()
@click.argument("checkpoint", required=False)
@in_option
@click.option("--all", "everything", is_flag=True, help="All that lies in the trash of TARGET.")
@click.option("--pin/--no-pin", "pinned", default=True, show_default=True, help="Pin what comes back, or the same policies take it again.")
@json_option
def restore(checkpoint: str | None, target: str | None, everything: bool, pinned: bool, as_json: bool) -> None:
    """Take CHECKPOINT (a path, or an id or name with --in TARGET) out of the trash, back into its place.

    It is verified first, and pinned. Optimizer states that were dropped come back the same way.
    """
    if (checkpoint is None) == (not everything):
        raise UsageError("Name a checkpoint, or say --all.", hint="`trainbus checkpoints list TARGET --trash` shows what there is.")
    back = []
    path = Path(checkpoint).expanduser().absolute() if checkpoint and "/" in checkpoint else None
    with scope(target or (str(path.parent) if path else None)) as found:
        for trash, thing in _to_restore(found, checkpoint, path):
            faults = () if thing.thinned else verify(thing.place).faults
            if faults:
                problem = f"{thing.place} is not whole and stays in the trash: {'; '.join(faults[:3])}."
                raise ModelError(problem, hint="`trainbus checkpoints verify` shows which others are.", file=str(thing.place))
            if pinned:  # before it is back: nothing can take it in between
                place = Path(thing.entry.path) if thing.thinned else thing.place
                pin(place, Pin(who=person(), why="restored", time=time.time_ns()))
            back.append(str(trash.restore(thing)))
            if not thing.thinned and thing.entry.run:  # a model that `trainbus models delete` took is of no run
                found.tell(thing.entry.record(), "complete", f"restored from the trash by {person()}")
    if as_json:
        print_json({"restored": back})
    else:
        how = "back, and pinned" if pinned else "back"
        stdout().print("\n".join(f"{one} is {how}." for one in back) or "The trash is empty.")


@click.command(name="verify")
@click.argument("target", required=False)
@click.option("--quick", is_flag=True, help="Sizes and structure only, without reading everything.")
@json_option
def verify_(target: str | None, quick: bool, as_json: bool) -> int:
    """Look whether checkpoints are whole: all of TARGET (a run or a directory), or one (a path), with digests where it has them.

    Knows full models, sharded ones and adapters. Exit code 8: one is not whole.
    """
    path = Path(target).expanduser() if target else None
    results: list[Verification] = []
    if path is not None and path.is_dir() and _is_model(path):
        results = list(_verified([path.absolute()], quick=quick))
    else:
        with scope(target) as found:
            paths = [Path(record.path) for record in found.records]
            results = list(_verified(paths, quick=quick))
            for left in found.unfinished:
                note(f"{left} was never finished.")
    if as_json:
        print_json(results)
    else:
        rows = (
            (
                Path(one.path).name,
                state("ok" if not one.faults else "fail"),
                one.kind or None,
                size(one.bytes),
                "digests" if one.sealed and one.contents else "structure",
                Text("; ".join(one.faults)),
            )
            for one in results
        )
        print_table(table("checkpoint", "state", "kind", "size", "by", "faults", rows=rows, right=("size",)), empty="There are none.")
    return ModelError.exit_code if any(one.faults for one in results) else 0


@click.command()
@click.argument("target", required=False)
@json_option
def ledger(target: str | None, as_json: bool) -> None:
    """Print every deletion, restoring and emptying in TARGET: when, what, who, why, bytes and digest."""
    with scope(target) as found:
        entries = [entry for root in found.storage.roots() for entry in found.storage.trash(root).ledger.entries()]
    if as_json:
        print_json(entries)
        return
    rows = (
        (clock(entry.time), entry.action, number(entry.step), size(entry.bytes), entry.who, entry.digest[:16], entry.reason)
        for entry in entries
    )
    print_table(
        table("time", "what", "step", "size", "by", "digest", "why", rows=rows, right=("step", "size")), empty="Nothing was ever deleted."
    )


CHANGES = (pin_, unpin_, restore, verify_, ledger)


@contextmanager
def one_checkpoint(checkpoint: str, target: str | None, **options: Any) -> Iterator[tuple[Scope, Record]]:
    """The scope, and the one checkpoint in it that is meant."""
    path = Path(checkpoint).expanduser().resolve() if "/" in checkpoint else None
    with scope(target or (str(path.parent) if path else None), **options) as found:
        yield found, the_record(found, str(path) if path else checkpoint)


def _to_restore(found: Scope, checkpoint: str | None, path: Path | None) -> list[tuple[Trash, Trashed]]:
    if checkpoint is None:
        order = sorted(found.storage.contents(), key=lambda pair: pair[1].thinned)  # the whole ones before what thinning took from them
        return [(trash, thing) for trash, thing in order if not thing.emptying]
    for root in found.storage.roots():
        trash = found.storage.trash(root)
        thing = trash.find(str(path) if path else checkpoint)
        if thing is not None:
            return [(trash, thing)]
    hint = "`trainbus checkpoints list TARGET --trash` shows what there is."
    raise RefusedError(f"The trash of {found.name} does not hold {checkpoint!r}.", hint=hint, code="unknown", found=checkpoint)


def _verified(paths: list[Path], *, quick: bool) -> Iterator[Verification]:
    total = sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
    with progress("verifying", total=total) as bar:

        def advance(count: int) -> bool:
            bar.advance(bar.task_ids[0], count)
            return True

        for path in paths:
            yield verify(path, contents=not quick, progress=advance)


def _is_model(path: Path) -> bool:
    """A model or a checkpoint itself, and not a directory of them."""
    return any((path / name).exists() for name in ("config.json", "adapter_config.json", "trainer_state.json", MARKER))
