"""What ``trainbus init`` suggests for a machine: settings with which a model of 0.5 to 8 billion parameters can be fine-tuned there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from trainbus.cli.hardware import Hardware
from trainbus.cli.output import size
from trainbus.trainer_node.config import Method
from trainbus.trainer_node.estimate import Work, largest_batch, memory
from trainbus.trainer_node.shape import Shape

EIGHT = Shape(
    parameters=8_190_735_360, embedding=2 * 151_936 * 4096, layers=36, hidden=4096, intermediate=12_288, queries=4096, keys=1024,
    vocabulary=151_936,
)  # fmt: skip
"""Qwen3-8B: the largest that is thought of."""
HALF = Shape(
    parameters=596_049_920, embedding=151_936 * 1024, layers=28, hidden=1024, intermediate=3072, queries=2048, keys=1024, vocabulary=151_936
)
"""Qwen3-0.6B: the smallest."""

EFFECTIVE_BATCH = 16
"""Examples of an optimizer step: as QLoRA's authors have for models of this size (Dettmers et al. 2023, table 9)."""
LARGEST_BATCH = 8
"""More at once is hardly quicker on one device."""
LENGTHS = (4096, 2048, 1024, 512, 256)
GIB = 1 << 30
SPACIOUS = 40 * GIB
"""With so much a base in 16 bits, which is quicker than one in 4 bits, leaves room for long examples."""
MUCH_DISK = 100 * GIB


class Suggestion(NamedTuple):
    """A setting and why."""

    key: str
    value: Any
    why: str


def suggest(machine: Hardware) -> Iterator[Suggestion]:
    """Settings of ``[trainer]``, in the order in which a person would read them."""
    accelerator = bool(machine.devices)
    shape = EIGHT if accelerator else HALF
    capacity = min(device.total for device in machine.devices) if accelerator else machine.available
    work, batch = _work(shape, capacity, accelerator=accelerator)
    needed = memory(shape, work, accelerator=accelerator).total
    name = "8 billion" if accelerator else "0.6 billion"
    room = f"a model of {name} parameters then needs about {size(needed)}{f' of {size(capacity)}' if capacity else ''}"
    base = "adapters on a base in 4 bits" if work.method == "qlora" else "adapters on a base as it is"
    yield Suggestion("method", work.method, f"{base[0].upper()}{base[1:]}: {room}.")
    yield Suggestion("max_length", work.length, "Tokens; longer examples are cut. `trainbus data preview` shows their lengths.")
    yield Suggestion("batch_size", batch, "Examples at once: as many of that length as have room.")
    accumulation = EFFECTIVE_BATCH // batch
    yield Suggestion("gradient_accumulation", accumulation, f"So an optimizer step sees {accumulation * batch} examples.")
    yield Suggestion("learning_rate", 2e-4, 'For adapters; all weights (method = "full") want a tenth of it.')
    yield Suggestion("lora_r", 16, "Rank of the adapters, beside every linear layer.")
    yield Suggestion("lora_alpha", 32, "Twice the rank.")
    yield Suggestion("eval_fraction", 0.05, "Held out of the data, at most 100 examples, to measure on what was not learned.")
    yield Suggestion("save_steps", 200, "So much work a crash may cost.")
    if machine.disk is not None and machine.disk > MUCH_DISK:
        yield Suggestion("free_disk", 5120, "Mebibytes that stay free beside a checkpoint; with less, training waits instead of failing.")


def _work(shape: Shape, capacity: int | None, *, accelerator: bool) -> tuple[Work, int]:
    """The longest examples of which at least one fits, and how many of them do, as a power of two."""
    method: Method = "qlora" if accelerator and (capacity or 0) < SPACIOUS else "lora"
    dtype = "bfloat16" if accelerator else "float32"
    for length in LENGTHS if accelerator else LENGTHS[-2:]:
        work = Work(method=method, dtype=dtype, batch=1, length=length, checkpointing=accelerator)
        fits = largest_batch(shape, work, capacity, accelerator=accelerator) if capacity else 1
        if fits:
            batch = min(LARGEST_BATCH, 1 << (fits.bit_length() - 1))
            return Work(method=method, dtype=dtype, batch=batch, length=length, checkpointing=accelerator), batch
    return Work(method=method, dtype=dtype, batch=1, length=LENGTHS[-1], checkpointing=accelerator), 1
