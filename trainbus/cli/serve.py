"""``trainbus serve``."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click
from rich.text import Text

from trainbus.cli import output
from trainbus.cli.app import UsageError
from trainbus.cli.options import json_option
from trainbus.errors import ConfigError, ModelError

GIB = 1 << 30
READ_KEY, ADMIN_KEY = "TRAINBUS_SERVE_KEY", "TRAINBUS_SERVE_ADMIN_KEY"
NEEDED = ("aiohttp", "torch", "transformers", "peft", "xxhash", "psutil")


class Pair(click.ParamType[tuple[str, str]]):
    """``LEFT=RIGHT``."""

    name = "pair"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Cut at the first ``=``."""
        left, sign, right = str(value).partition("=")
        if not (left and sign and right):
            self.fail(f"{value!r} has not the form {(param and param.metavar) or 'NAME=VALUE'}", param, ctx)
        return left, right


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--adapter", "adapters", type=Pair(), multiple=True, metavar="NAME=FOLDER", help="A LoRA adapter over a model. Repeatable.")
@click.option(
    "--allow", "roots", multiple=True, type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="FOLDER",
    help="Models below this folder may be asked for by their paths. Repeatable.",
)  # fmt: skip
@click.option(
    "--map", "paths", type=Pair(), multiple=True, metavar="THEIRS=OURS", help="How paths of other machines begin here. Repeatable."
)
@click.option("--store", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Take uploads, and keep them here.")
@click.option("--store-gb", type=click.FloatRange(min=0.001), default=50.0, show_default=True, help="Uploads take at most so much, in GiB.")
@click.option(
    "--fetch-from", multiple=True, metavar="HOST[:PORT]",
    help="Fetch checkpoints into the store when asked to, from this host only. Repeatable.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other address than this machine's own needs keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8790, show_default=True, help="0 lets the system choose.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True)
@click.option("--memory", type=click.FloatRange(min=0), default=0.0, help="GiB for models' weights. Default: two thirds of what is free.")
@click.option("--max-adapters", type=click.IntRange(min=1), default=16, show_default=True, help="Adapters that stay loaded over one model.")
@click.option("--max-batch", type=click.IntRange(1, 1024), default=16, show_default=True, help="Answers made at once.")
@click.option("--max-waiting", type=click.IntRange(min=1), default=256, show_default=True, help="Requests that wait; more are refused.")
@click.option("--max-seconds", type=click.FloatRange(min=0.1), default=600.0, show_default=True, help="No request takes longer.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all.")
@click.option("--read-key-file", type=click.Path(path_type=Path, dir_okay=False), help="Keys of those who may ask, one a line.")
@click.option("--admin-key-file", type=click.Path(path_type=Path, dir_okay=False), help="Keys of those who may also administer.")
@click.option(
    "--power-profile", "profiles", type=Pair(), multiple=True, metavar="NAME=WATTS",
    help="Instead of quiet=220, normal=280 and performance=350. Repeatable.",
)  # fmt: skip
@click.option("--lazy", is_flag=True, help="Load a model when it is asked for first, not at the start.")
@json_option
def command(
    models: tuple[str, ...],
    adapters: tuple[tuple[str, str], ...],
    roots: tuple[Path, ...],
    paths: tuple[tuple[str, str], ...],
    store: Path | None,
    store_gb: float,
    fetch_from: tuple[str, ...],
    host: str,
    port: int,
    device: str,
    dtype: str,
    memory: float,
    max_adapters: int,
    max_batch: int,
    max_waiting: int,
    max_seconds: float,
    threads: int | None,
    read_key_file: Path | None,
    admin_key_file: Path | None,
    profiles: tuple[tuple[str, str], ...],
    lazy: bool,
    as_json: bool,
) -> None:
    """Answer with models and checkpoints: OpenAI's protocol, adapters by name, uploads, jobs.

    MODEL is a folder with safetensors, or NAME=FOLDER; an adapter's folder finds its base. The first one is asked when a request
    names none. With --allow, every checkpoint below a folder can be asked for by its path, also one that is written later.

    Keys come from files, or from TRAINBUS_SERVE_KEY and TRAINBUS_SERVE_ADMIN_KEY. Without keys only this machine may ask.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        hint = "Install them: pip install 'trainbus[serve]'"
        raise ModelError(f"Serving needs libraries that are not installed: {', '.join(missing)}.", hint=hint, missing=missing)
    from trainbus.serving.config import POWER_PROFILES, ServeConfig
    from trainbus.serving.running import serve

    if not models and not roots and store is None:
        raise UsageError("There is nothing to serve.", hint="Name a model's folder, or give --allow FOLDER or --store FOLDER.")
    config = ServeConfig(
        models=_models(models, adapters),
        roots=tuple(root.resolve() for root in roots),
        paths=dict(paths),
        store=None if store is None else store.resolve(),
        store_bytes=int(store_gb * GIB),
        fetch_from=fetch_from,
        device=device,
        dtype=dtype,
        memory_bytes=int(memory * GIB),
        max_adapters=max_adapters,
        max_batch=max_batch,
        max_waiting=max_waiting,
        max_seconds=max_seconds,
        threads=threads,
        host=host,
        port=port,
        read_keys=_keys(read_key_file, READ_KEY),
        admin_keys=_keys(admin_key_file, ADMIN_KEY),
        power_profiles=_watts(profiles) or POWER_PROFILES,
    )

    def ready(url: str) -> None:
        if as_json:
            click.echo(output.json_line({"url": url, "models": list(config.models)}))
            sys.stdout.flush()
        else:
            output.stderr().print(Text(f"Answering at {url}/v1 (Ctrl-C ends it)."))

    asyncio.run(serve(config, preload=not lazy, ready=ready))


def _models(named: tuple[str, ...], adapters: tuple[tuple[str, str], ...]) -> dict[str, Path]:
    """Folders by name: a model's by its folder's name unless told; an adapter that is named alone brings its base along."""
    from trainbus.serving.loading import base_of, is_adapter

    found: dict[str, Path] = {}
    for one in named:
        name, sign, rest = one.partition("=")
        folder = Path(rest if sign else one).expanduser().resolve()
        _put(found, name if sign else folder.name, folder)
        if is_adapter(folder) and (base := base_of(folder).resolve()) not in found.values():
            _put(found, base.name, base)
    for name, place in adapters:
        _put(found, name, Path(place).expanduser().resolve())
    return found


def _put(found: dict[str, Path], name: str, folder: Path) -> None:
    if found.setdefault(name, folder) != folder:
        raise UsageError(f"Two models are named {name!r}: {found[name]} and {folder}.", hint="Give NAME=FOLDER.")


def _keys(file: Path | None, variable: str) -> tuple[str, ...]:
    text = os.environ.get(variable, "")
    if file is not None:
        try:
            text += "\n" + file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The keys in {file} can't be read: {error}.", hint="It is a text file with one key a line.") from error
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if file is not None and not keys:
        raise ConfigError(f"{file} has no key.", hint="Write one a line, such as from: openssl rand -hex 32", file=str(file))
    return keys


def _watts(profiles: tuple[tuple[str, str], ...]) -> dict[str, int]:
    try:
        return {name: int(watts) for name, watts in profiles}
    except ValueError as error:
        raise UsageError(f"A power profile has no whole number of watts: {error}.", hint="--power-profile quiet=220") from error
