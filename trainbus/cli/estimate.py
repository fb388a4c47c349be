"""``trainbus train --estimate``: what a training would need, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from trainbus.cli.hardware import look
from trainbus.cli.output import print_json, size, stdout, table

if TYPE_CHECKING:
    from trainbus.trainer_node.config import TrainerConfig
    from trainbus.trainer_node.estimate import Memory

BYTES_PER_TOKEN = 4.0
"""Of English text; packed files have about four times as many a byte."""
PACKED = {".gz": 4.0, ".zst": 4.0, ".parquet": 3.0}


class Estimate(Struct, frozen=True, kw_only=True):
    """What is thought to be needed. ``seconds``, ``tokens`` and ``tokens_per_second`` are None where nothing tells them."""

    parameters: int
    trained: int
    device: str
    capacity: int | None
    memory: Memory
    fits: bool | None
    largest_batch: int | None
    tokens: int | None
    tokens_per_second: float | None
    seconds: float | None
    known_from: str


def estimate(config: TrainerConfig) -> Estimate | None:
    """None when the model's shape can't be known here: it is not on this machine."""
    from trainbus.trainer_node import estimate as rules
    from trainbus.trainer_node import records
    from trainbus.trainer_node.shape import shape_of

    shape = shape_of(config.model)
    if shape is None:
        return None
    machine = look(Path())
    gpu = machine.devices[0] if machine.devices else None
    work = rules.work_of(config, accelerator=gpu is not None)
    memory = rules.memory(shape, work, accelerator=gpu is not None)
    capacity = gpu.total if gpu is not None else machine.memory
    speed = rules.tokens_per_second(shape, work, gpu.name if gpu is not None else "", records.read(), config.model)
    tokens = _tokens(config)
    return Estimate(
        parameters=shape.parameters,
        trained=shape.parameters if config.method == "full" else shape.adapters(config.lora_r),
        device=gpu.name if gpu is not None else "CPU",
        capacity=capacity,
        memory=memory,
        fits=None if capacity is None else memory.total <= capacity,
        largest_batch=None if capacity is None else rules.largest_batch(shape, work, capacity, accelerator=gpu is not None),
        tokens=tokens,
        tokens_per_second=speed[0] if speed else None,
        seconds=tokens / speed[0] if speed and tokens else None,
        known_from=speed[1] if speed else "nothing: this device is unknown, and this model was not trained here before",
    )


def show(config: TrainerConfig, *, as_json: bool) -> int:
    """Print it. Exit code 1 when it does not fit."""
    found = estimate(config)
    if found is None:
        click.echo(f"The shape of {config.model or 'the model'} is not known before it is on this machine.", err=True)
        return 1
    if as_json:
        print_json(found)
        return 1 if found.fits is False else 0
    from trainbus.trainer_node.pace import Left, words

    memory = found.memory
    rows = [
        ("parameters", f"{found.parameters:,}, {found.trained:,} of them trained"),
        ("weights", size(memory.weights + memory.adapters)),
        ("gradients", size(memory.gradients)),
        ("optimizer", size(memory.optimizer)),
        ("activations", f"{size(memory.activations)}  ({config.batch_size} x {config.max_length} tokens)"),
        ("other", size(memory.other)),
        ("in all", f"about {size(memory.total)} of {size(found.capacity)}  ({found.device})"),
        ("largest batch", str(found.largest_batch) if found.largest_batch else "not even one example fits"),
        ("time", f"about {words(Left(seconds=found.seconds))}" if found.seconds is not None else None),
        ("speed", f"{found.tokens_per_second:,.0f} tokens/s" if found.tokens_per_second is not None else None),
        ("known from", found.known_from),
    ]
    made = table("", "", rows=[row for row in rows if row[1] is not None])
    made.show_header = False
    stdout().print(made)
    if found.fits is False:
        click.echo("It does not fit: lower batch_size or max_length, or use method qlora.", err=True)
        return 1
    return 0


def _tokens(config: TrainerConfig) -> int | None:
    """Tokens of a training on a local file: rough, by its size; with max_steps exactly as many at most."""
    if config.max_steps is not None:
        return config.max_steps * config.batch_size * config.gradient_accumulation * config.max_length
    file = Path(config.data).expanduser() if config.data else None
    if file is None or not file.is_file():
        return None
    return round(file.stat().st_size * PACKED.get(file.suffix, 1.0) / BYTES_PER_TOKEN * config.epochs)
