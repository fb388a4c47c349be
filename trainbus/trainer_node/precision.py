"""In which numbers a training computes, and in which it keeps its weights. Imports torch inside."""

from __future__ import annotations

import msgspec

from trainbus.errors import ConfigError
from trainbus.trainer_node.config import TrainerConfig


def resolved(config: TrainerConfig) -> TrainerConfig:
    """The configuration with ``auto`` replaced by what suits the machine.

    Raises:
        ConfigError: The machine can't compute in the type that was asked for.
    """
    import torch

    accelerated = torch.cuda.is_available()
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if not accelerated else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if dtype == "float16" and not accelerated:
        raise ConfigError(
            'dtype = "float16" needs an accelerator, and there is none: on a CPU it would train in float32.',
            hint='Use dtype = "float32" or "bfloat16", or "auto" for what suits the machine.',
            key="trainer.dtype",
            found="float16",
            allowed="auto, float32, bfloat16",
        )
    checkpointing = accelerated if config.gradient_checkpointing == "auto" else config.gradient_checkpointing
    return msgspec.structs.replace(config, dtype=dtype, gradient_checkpointing=checkpointing)


def weights_dtype(config: TrainerConfig) -> str:
    """Full training keeps float32 weights: in 16 bits small updates would round to nothing. A frozen base is only read."""
    return "float32" if config.method == "full" else config.dtype
