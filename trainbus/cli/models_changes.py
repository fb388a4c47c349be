"""``trainbus models save|delete``: through the same leases, protection and trash as ``trainbus checkpoints``."""

from __future__ import annotations

import time
from pathlib import Path

import click
from msgspec import structs

from trainbus.bus.client import Client
from trainbus.bus.home import connection_file
from trainbus.cli.checkpoint_scope import CONNECT_TIMEOUT, person, retention_settings, without_bus_option
from trainbus.cli.checkpoints import require_whole_newest, take
from trainbus.cli.models_named import Named, every_checkpoint, named_model
from trainbus.cli.options import config_options, json_option, yes_option
from trainbus.cli.output import note, print_json, size, stdout
from trainbus.errors import ModelError, RefusedError, UnreachableError
from trainbus.inferring.inspecting import inspect
from trainbus.inferring.saving import save as copy_whole
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import Decision
from trainbus.plugins.retention.recognition import NotACheckpoint
from trainbus.plugins.retention.records import Record
from trainbus.plugins.retention.sweeper import empty
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import kind_of, verify


@click.command(name="save")
@click.argument("name")
@click.argument("place", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Merge an adapter into its base: the copy is a model that needs nothing else.")
@json_option
def save_(name: str, place: Path, merge: bool, as_json: bool) -> None:
    """Copy NAME to PLACE, a new folder, without what is for resuming only. It is read and compared first."""
    with named_model(name, reason=f"saved to {place}") as found:
        _require_local(found)
        copy_whole(Path(found.place), place.expanduser().absolute(), merge=merge)
    saved = inspect(place)
    if as_json:
        print_json({"name": found.label, "place": str(place), "kind": saved.kind, "bytes": saved.bytes})
    else:
        stdout().print(f"{found.label} is saved as {place} ({saved.kind}, {size(saved.bytes)}).")


@click.command(name="delete")
@click.argument("name")
@click.option("--reason", default="", help="Stands in the ledger.")
@click.option("--protected", is_flag=True, help="Also what retention protects, as the newest and the best of a run.")
@click.option("--for-good", is_flag=True, help="Don't leave it in the trash.")
@config_options
@without_bus_option
@yes_option
@json_option
def delete_(
    name: str,
    reason: str,
    protected: bool,
    for_good: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
    without_bus: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put NAME into the trash, from which `trainbus checkpoints restore` brings it back.

    What is pinned, leased, being written, or what a run goes on from, is never deleted; what retention protects only with --protected.
    """
    config = retention_settings(config_path, overrides)
    with named_model(name, policies=config.keep_best, acting=True, without_bus=without_bus) as found:
        _require_local(found)
        why = f"deleted by hand{f': {reason}' if reason else ''}"
        if found.record is not None and found.scope is not None:
            _delete_checkpoint(found, found.record, config, why, protected=protected, for_good=for_good, yes=yes)
        else:
            _delete_folder(Path(found.place), why, protected=protected, for_good=for_good, yes=yes)
    if as_json:
        print_json({"name": found.label, "path": found.place, "deleted": True, "restorable": not for_good})
    else:
        after = "gone" if for_good else f"in the trash; `trainbus checkpoints restore {found.place}` brings it back"
        stdout().print(f"{found.label} is {after}.", soft_wrap=True)


CHANGES = (save_, delete_)


def _require_local(found: Named) -> None:
    if not found.local:
        raise ModelError(f"There is no folder {found.place}.", hint="`trainbus models list` shows the checkpoints.", file=found.place)


def _delete_checkpoint(
    found: Named, record: Record, config: RetentionConfig, why: str, *, protected: bool, for_good: bool, yes: bool
) -> None:
    within = found.scope
    assert within is not None, "a record comes with its scope"
    decision, others = _decided(found, record, config)
    if held := within.reasons().get(record.id):
        hint = "`trainbus checkpoints unpin`, or wait until nobody uses it."
        raise RefusedError(f"{found.label} can't be deleted: {'; '.join(held)}.", hint=hint, code="protected", reasons=held)
    if decision.protected and not protected:
        hint = "Say --protected to delete it all the same."
        raise RefusedError(f"{found.label} is protected: {decision.reason}.", hint=hint, code="protected", reasons=list(decision.reasons))
    if decision.action == "keep":
        note(f"{found.label} is kept by retention: {decision.reason}.")
    if not yes:
        click.confirm(f"Delete {found.label}{f', {found.why},' if found.why else ''} ({size(record.bytes)})?", abort=True, err=True)
    going = structs.replace(decision, action="delete", reasons=(why,), limit="")
    if others:
        require_whole_newest([going], others, quick=False)
    # The person may have thought for an hour: somebody may use it by now.
    if held_back := "; ".join(within.reasons().get(record.id, [])) or take(within, going, config, empty_now=for_good, quick=False):
        raise RefusedError(f"{found.label} stays: {held_back}", hint="Nothing was deleted.", code="held")


def _decided(found: Named, record: Record, config: RetentionConfig) -> tuple[Decision, list[Decision]]:
    """What retention would do with it, and with the others of its run."""
    assert found.scope is not None, "a record comes with its scope"
    decisions = found.scope.plan(config, time.time_ns()).decisions
    return (
        next(one for one in decisions if one.record.id == record.id),
        [one for one in decisions if one.record.id != record.id and one.record.run == record.run],
    )


def _delete_folder(folder: Path, why: str, *, protected: bool, for_good: bool, yes: bool) -> None:
    """A model that is no checkpoint: nobody but the adapters on it knows who needs it."""
    if (folder.parent / "trainbus_version.json").exists() or (folder / "trainbus_version.json").exists():
        hint = f"`trainbus checkpoints versions delete {folder.parent} {folder.name}` backs it up first."
        raise RefusedError(f"{folder} is a version of a model.", hint=hint, code="protected")
    users = _adapters_on(folder)
    if users and not protected:
        problem = f"{folder} is the base of {len(users)} checkpoints: {', '.join(users[:3])}{', ...' if len(users) > 3 else ''}."
        raise RefusedError(problem, hint="They are of no use without it. Say --protected to delete it all the same.", code="protected")
    found = verify(folder, contents=not for_good)
    if not yes:
        click.confirm(f"Delete {folder} ({size(found.bytes)})?", abort=True, err=True)
    trash = Trash(folder.parent, who=person(), recognise=_recognise_model)
    record = Record(f"model:{folder}", "", 0, time.time_ns(), str(folder), found.bytes, found.digest)
    thing = trash.put(record, reason=why)
    if for_good:
        empty(trash, thing)


def _recognise_model(record: Record, parent: int) -> None:
    path = Path(record.path)
    if not kind_of(path):
        raise NotACheckpoint(f"{path} holds no model any more.", path=str(path))
    if (path / "trainbus_pin.json").exists():
        raise NotACheckpoint(f"{path} is pinned.", hint=f"`trainbus checkpoints unpin {path}` lets it go.", path=str(path))


def _adapters_on(folder: Path) -> list[str]:
    """Checkpoints of the bus that are adapters on a base; without a bus nobody knows any."""
    if not connection_file().exists():
        return []
    try:
        with Client(timeout=CONNECT_TIMEOUT) as client:
            records = every_checkpoint(client)
    except UnreachableError:
        return []
    found = []
    for record in records:
        try:
            adapter = inspect(Path(record.path)).adapter
        except ModelError:
            continue
        if adapter and adapter.base_found and Path(adapter.base).resolve() == folder:
            found.append(f"{record.run}:{record.step}")
    return found
