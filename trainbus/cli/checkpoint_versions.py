"""``trainbus checkpoints promote|versions|backups``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trainbus.cli.checkpoint_changes import in_option, one_checkpoint
from trainbus.cli.checkpoint_scope import person, retention_settings
from trainbus.cli.options import config_options, json_option, yes_option
from trainbus.cli.output import age, number, print_json, print_table, progress, size, state, stdout, table
from trainbus.errors import ModelError, RefusedError
from trainbus.plugins.retention import backups, promotion, versions
from trainbus.plugins.retention.verify import verify

directory_argument = click.argument("directory", type=click.Path(path_type=Path, file_okay=False, resolve_path=True))


@click.command()
@click.argument("checkpoint")
@in_option
@click.option(
    "--to", "directory", type=click.Path(path_type=Path, file_okay=False), help="Directory of versions. Default: versions beside it."
)
@click.option("--merge", is_flag=True, help="Merge an adapter into its base model. With a backup address, the adapter is backed up first.")
@click.option("--with-optimizer", is_flag=True, help="Also copy what is needed for resuming only.")
@click.option("--note", default="", help="Stands in the version's manifest.")
@config_options
@json_option
def promote(
    checkpoint: str,
    target: str | None,
    directory: Path | None,
    merge: bool,
    with_optimizer: bool,
    note: str,
    config_path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the next numbered version of CHECKPOINT (a path, or an id or step with --in TARGET): a copy with verified digests.

    With backup_to in [plugin.retention], the version is backed up at once.
    """
    config = retention_settings(config_path, overrides)
    with one_checkpoint(checkpoint, target) as (found, record), found.lease(record, "shared", "promote"):
        directory = directory or Path(record.path).parent / "versions"
        with progress("promoting", total=record.bytes) as bar:

            def advance(count: int) -> bool:
                bar.advance(bar.task_ids[0], count)
                return True

            version, backup = promotion.promote(
                record,
                directory,
                backup_to=config.backup_to,
                merge=merge,
                who=person(),
                note=note,
                with_optimizer=with_optimizer,
                progress=advance,
            )
    place = directory / version.name
    if as_json:
        print_json({"version": version, "path": str(place), "backup": backup})
        return
    stdout().print(f"{place}: {version.kind}, {size(version.bytes)}, digest {version.digest[:16]}.")
    if backup:
        stdout().print(f"Backed up to {config.backup_to}/{backup.name}, and read back.")


@click.group(name="versions")
def versions_() -> None:
    """List, verify, restore and delete versions."""


@versions_.command(name="list")
@directory_argument
@click.option("--verify", "check", is_flag=True, help="Also read each and compare it with its digests. Exit code 8: one differs.")
@json_option
def list_(directory: Path, check: bool, as_json: bool) -> int:
    """List the versions in DIRECTORY by number."""
    found = versions.listed(directory)
    faults = {version.name: versions.faults_of(directory / version.name, version) if check else [] for version in found}
    if as_json:
        print_json([{"version": version, "faults": faults[version.name]} for version in found])
    else:
        made = table("version", "kind", "step", "size", "made", "digest", "note", right=("step", "size"))
        for version in found:
            note = "; ".join(faults[version.name]) or version.note
            shown = (number(version.step), size(version.bytes), age(version.created), version.digest[:16], note)
            made.add_row(version.name, version.kind + (" (merged)" if version.merged else ""), *shown)
        print_table(made, empty=f"{directory} has no versions.")
    return ModelError.exit_code if any(faults.values()) else 0


@versions_.command(name="restore")
@directory_argument
@click.argument("version")
@click.argument("place", required=False, type=click.Path(path_type=Path))
def restore_version(directory: Path, version: str, place: Path | None) -> None:
    """Copy VERSION (v007, 7 or latest) to PLACE, identical file by file; without PLACE, take it out of the trash."""
    if place is not None:
        stdout().print(f"{versions.copy_out(directory, versions.the_version(directory, version), place)} is there.")
        return
    trash = versions.trash_of(directory, who=person())
    name = f"v{int(version):03d}" if version.isdigit() else version
    thing = trash.find(name)
    if thing is None:
        raise RefusedError(f"The trash of {directory} holds no {name}.", hint="Give a PLACE to copy an existing version.", code="unknown")
    trash.restore(thing)
    versions.point_latest(directory)
    stdout().print(f"{directory / name} is back.")


@versions_.command(name="delete")
@directory_argument
@click.argument("version")
@click.option("--reason", default="", help="Stands in the ledger.")
@config_options
@yes_option
def delete_version(directory: Path, version: str, reason: str, config_path: Path | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Put VERSION into the trash. It is backed up first (backup_to); without a backup, the last whole copy is never deleted."""
    config = retention_settings(config_path, overrides)
    found = versions.the_version(directory, version)
    if not yes:
        click.confirm(f"Delete {directory / found.name} ({size(found.bytes)})?", abort=True, err=True)
    copy = _copy_elsewhere(directory, found, config.backup_to)
    versions.delete(directory, found, who=person(), reason=reason or "deleted by hand")
    stdout().print(f"{found.name} is in the trash; another whole copy is {copy}.")


@click.group(name="backups")
def backups_() -> None:
    """Copies on another disk or machine: ADDRESS is a directory or an fsspec address such as s3://bucket/models."""


@backups_.command(name="make")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("address")
@click.option("--name", default="", help="Default: the name of SOURCE.")
@json_option
def make_backup(source: Path, address: str, name: str, as_json: bool) -> None:
    """Copy SOURCE (a model, checkpoint or version) to ADDRESS and read it back. One that is there already is verified."""
    made = backups.back_up(source.resolve(), address, name=name)
    if as_json:
        print_json(made)
    else:
        stdout().print(f"{address}/{made.name}: {len(made.files)} files, {size(made.bytes)}, digest {made.digest[:16]}.")


@backups_.command(name="list")
@click.argument("address")
@json_option
def list_backups(address: str, as_json: bool) -> None:
    """List complete backups, oldest first."""
    found = backups.listed(address)
    if as_json:
        print_json(found)
        return
    rows = ((one.name, size(one.bytes), age(one.created), one.digest[:16], one.source) for one in found)
    print_table(table("backup", "size", "made", "digest", "from", rows=rows, right=("size",)), empty=f"{address} has no backups.")


@backups_.command(name="verify")
@click.argument("address")
@click.argument("name", required=False)
def verify_backups(address: str, name: str | None) -> int:
    """Read NAME, or all, and compare with the digests. Exit code 8: one differs."""
    rows, bad = [], False
    for one in [name] if name else [backup.name for backup in backups.listed(address)]:
        try:
            backups.check(address, one)
            rows.append((one, state("ok"), ""))
        except ModelError as error:
            bad = True
            rows.append((one, state("fail"), error.problem))
    print_table(table("backup", "state", "faults", rows=rows), empty=f"{address} has no backups.")
    return ModelError.exit_code if bad else 0


@backups_.command(name="restore")
@click.argument("address")
@click.argument("name")
@click.argument("place", type=click.Path(path_type=Path))
def restore_backup(address: str, name: str, place: Path) -> None:
    """Fetch NAME to PLACE, identical file by file."""
    found = backups.restore(address, name, place.absolute())
    stdout().print(f"{place} is there: {size(found.bytes)}, digest {found.digest[:16]}.")


@backups_.command(name="prune")
@click.argument("address")
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Older ones go.")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="So many newest stay in any case.")
@yes_option
def prune_backups(address: str, days: float, keep: int, yes: bool) -> None:
    """Delete old backups. Without --yes it only lists them."""
    old = backups.old_ones(address, days=days, keep=keep, now=time.time_ns())
    for one in old:
        if yes:
            backups.remove(address, one.name)
        stdout().print(f"{one.name}, made {age(one.created)}: {'deleted' if yes else 'would go'}.")
    if not old:
        stdout().print("Nothing is old enough.")


VERSIONS = (promote, versions_, backups_)


def _copy_elsewhere(directory: Path, version: versions.Version, backup_to: str) -> str:
    """Where another whole copy is; it is read to be sure.

    Raises:
        ModelError: There is none.
    """
    if backup_to:
        return f"{backup_to}/{backups.back_up_version(directory, version.name, backup_to).name}"
    for other in versions.listed(directory):
        if other.name != version.name and other.digest == version.digest and not versions.faults_of(directory / other.name, other):
            return other.name
    source = Path(version.source)
    if not version.merged and source.is_dir() and not verify(source).faults and not versions.faults_of(source, version):
        return str(source)
    hint = "Set backup_to in [plugin.retention], or make one: `trainbus checkpoints backups make`, then --set backup_to=ADDRESS."
    raise ModelError(f"{directory / version.name} is the last whole copy of this model.", hint=hint, file=str(directory / version.name))
