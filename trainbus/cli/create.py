"""``trainbus create``: a model that has learnt nothing yet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.cli.options import json_option
from trainbus.cli.output import note, print_json, size, stdout
from trainbus.cli.train import need_libraries, quiet_libraries
from trainbus.errors import ConfigError, ModelError

FEED_FORWARD = 3
"""Width of the inner layer, in widths of the embedding."""


@click.command(name="create")
@click.argument("place", type=click.Path(path_type=Path))
@click.option(
    "--embedding", type=click.IntRange(min=8), default=256, show_default=True, help="Width of the embedding; divisible by --heads."
)
@click.option("--layers", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--heads", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--context", type=click.IntRange(min=8), default=4096, show_default=True, help="Positions that it knows.")
@click.option("--vocabulary", type=click.IntRange(min=1), help="Rows of the embedding. Default: as many as the tokenizer has tokens.")
@click.option("--tokenizer", metavar="NAME", help="A folder or hub name. Default: one token for each byte, with a chat template.")
@click.option("--settings", type=click.Path(path_type=Path, dir_okay=False), help="A JSON file like a model's config.json; it comes last.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="The same seed gives the same weights.")
@json_option
def command(
    place: Path,
    embedding: int,
    layers: int,
    heads: int,
    context: int,
    vocabulary: int | None,
    tokenizer: str | None,
    settings: Path | None,
    dtype: str,
    seed: int,
    as_json: bool,
) -> None:
    """Make a model with fresh weights in PLACE, a new folder: a small Qwen3 with tied embeddings, or whatever --settings says.

    `trainbus train FILE --model PLACE --method full` teaches it, `trainbus infer --model PLACE --raw` asks it.
    """
    if place.exists():
        raise ModelError(f"{place} exists already.", hint="Name a new folder.", file=str(place))
    if embedding % heads or embedding // heads % 2:
        problem = f"An embedding of {embedding} can't be shared by {heads} heads: each needs an even width."
        raise ConfigError(problem, hint=f"Take a multiple of {2 * heads}.", key="--embedding", found=embedding)
    shape: dict[str, Any] = {
        "model_type": "qwen3",
        "hidden_size": embedding,
        "intermediate_size": FEED_FORWARD * embedding,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": embedding // heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
    }
    need_libraries()
    quiet_libraries()
    made = _make(place.absolute(), shape | _read(settings), vocabulary, tokenizer, dtype, seed)
    if as_json:
        print_json(made)
        return
    stdout().print(f"{place}: {made['parameters']:,} parameters, {made['vocabulary']:,} tokens, {size(made['bytes'])}.", soft_wrap=True)
    note(f"teach it: trainbus train FILE --model {place} --method full")


def _make(place: Path, shape: dict[str, Any], vocabulary: int | None, tokenizer: str | None, dtype: str, seed: int) -> dict[str, Any]:
    from transformers import set_seed

    from trainbus.inferring.inspecting import inspect
    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
    from trainbus.trainer_node.config import TrainerConfig
    from trainbus.trainer_node.model import from_config, load_tokenizer

    context = int(shape["max_position_embeddings"])
    known = load_tokenizer(TrainerConfig(model=tokenizer)) if tokenizer else byte_tokenizer(context)
    if vocabulary is not None:
        if vocabulary < len(known):
            problem = f"A vocabulary of {vocabulary} is too small for a tokenizer with {len(known):,} tokens."
            raise ConfigError(problem, hint="Leave --vocabulary out, or name another --tokenizer.", key="--vocabulary", found=vocabulary)
        shape = {**shape, "vocab_size": vocabulary}
    set_seed(seed)
    model = from_config(shape, known, dtype, source="these settings")
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        known.save_pretrained(partial)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    found = inspect(place)
    return {
        "path": str(place),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": found.vocabulary,
        "architecture": found.architecture,
        "bytes": found.bytes,
    }


def _read(settings: Path | None) -> dict[str, Any]:
    if settings is None:
        return {}
    try:
        return msgspec.json.decode(settings.read_bytes(), type=dict[str, Any])
    except (OSError, *DECODE_ERRORS) as error:
        hint = "It is a JSON object like a model's config.json."
        raise ConfigError(f"{settings} can't be read: {error}", hint=hint, key="--settings", file=str(settings)) from error
