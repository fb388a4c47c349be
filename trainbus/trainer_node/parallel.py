"""What was asked for, beside what transformers and accelerate have made of it: they fall back to something else without a word."""

from __future__ import annotations

import os
from typing import Any

from trainbus.errors import ConfigError
from trainbus.trainer_node.config import TrainerConfig

_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}

_BY_WRAPPER = {
    "DistributedDataParallel": "ddp",
    "FullyShardedDataParallel": "fsdp",
    "DataParallel": "one process on several GPUs (DataParallel)",
    "DeepSpeedEngine": "deepspeed",
}


def asked(config: TrainerConfig) -> str:
    """``ddp`` or ``fsdp`` as the configuration or accelerate's launcher says; empty when it is left to what comes."""
    if config.parallel != "auto":
        return config.parallel
    return "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes") else ""


def came(trainer: Any) -> str:
    """What the model is wrapped in when training begins; empty for one process on one device."""
    kinds = [kind.__name__ for kind in type(trainer.model_wrapped).__mro__]
    if "FSDPModule" in kinds:
        return "fsdp"
    return next((_BY_WRAPPER[kind] for kind in kinds if kind in _BY_WRAPPER), "")


def require(config: TrainerConfig, trainer: Any, processes: int) -> None:
    """Refuse a training that is not what was asked for. Call it when the model is wrapped.

    Raises:
        ConfigError: It names what was asked and what came.
    """
    wanted, found = asked(config), came(trainer)
    if wanted and wanted != found:
        raise ConfigError(
            f"parallel = {wanted!r} was asked for, and what came is {found or 'one process'}.",
            hint=_advice(wanted, processes),
            key="trainer.parallel",
            found=found,
            allowed=wanted,
        )
    if found.startswith("one process"):
        raise ConfigError(
            f"What came is {found}, which is slow and counts batches differently.",
            hint="Start it with torchrun, or show it one GPU: CUDA_VISIBLE_DEVICES=0.",
            found=found,
        )
    mixed = str(trainer.accelerator.mixed_precision)
    if mixed != _MIXED[config.dtype]:
        raise ConfigError(
            f"dtype = {config.dtype!r} was asked for, and accelerate computes with mixed precision {mixed!r}.",
            hint="Leave --mixed_precision of `accelerate launch` out, or make it the same.",
            key="trainer.dtype",
            found=mixed,
            allowed=_MIXED[config.dtype],
        )


def _advice(wanted: str, processes: int) -> str:
    if processes == 1:
        return "Start it with several processes: torchrun --nproc-per-node N -m trainbus train ..."
    if wanted == "fsdp":
        return 'transformers shards on GPUs only; on a CPU use parallel = "ddp".'
    return 'Leave parallel at "auto" to take what the launcher sets up.'
