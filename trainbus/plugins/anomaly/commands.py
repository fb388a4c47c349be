"""``trainbus anomaly``: what lies in the snapshot directories."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trainbus.bus.jsonable import to_json
from trainbus.plugins.anomaly.keeping import clean, old, snapshots, verify

_directory = click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


@click.command(name="snapshots")
@_directory
@_json
def list_command(directory: Path, as_json: bool) -> None:
    """List the snapshots in DIRECTORY, which is usually `snapshots` beside the checkpoints."""
    found = snapshots(directory)
    for one in found:
        made = time.strftime("%F %H:%M", time.localtime(one.made))
        click.echo(to_json(one).decode() if as_json else f"{made}  {one.rule or '-':<16} step {one.step or '-':<8} {one.path}")
    if not found and not as_json:
        click.echo(f"There are no snapshots in {directory}.")


@click.command(name="verify")
@_directory
@_json
def verify_command(directory: Path, as_json: bool) -> int:
    """Check that every snapshot in DIRECTORY holds a whole model or adapter. Exit code 1 when one does not."""
    broken = 0
    for one in snapshots(directory):
        wrong = verify(Path(one.path))
        broken += bool(wrong)
        if as_json:
            click.echo(to_json({"path": one.path, "ok": not wrong, "wrong": wrong}).decode())
        else:
            click.echo(f"{'broken' if wrong else 'ok    '}  {one.path}" + "".join(f"\n        {problem}" for problem in wrong))
    return 1 if broken else 0


@click.command(name="clean")
@_directory
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Remove what is older.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@_json
def clean_command(directory: Path, days: float, dry_run: bool, as_json: bool) -> None:
    """Remove old snapshots from DIRECTORY. Those of best models stay."""
    removed = old(snapshots(directory), days=days) if dry_run else clean(directory, days=days)
    for one in removed:
        click.echo(to_json(one).decode() if as_json else f"{'would remove' if dry_run else 'removed'}  {one.path}")
    if not removed and not as_json:
        click.echo("Nothing is that old.")
