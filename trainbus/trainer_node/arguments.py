"""`TrainerConfig` in the words of transformers. Imports transformers inside: load only where training runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.part import WARMUP_STEPS


def total_steps(config: TrainerConfig, examples: int, processes: int = 1) -> int:
    """Optimizer steps of a whole training, counted as Trainer counts them (a last, smaller batch is a step)."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * steps_of(config, examples, processes))


def steps_of(config: TrainerConfig, examples: int, processes: int = 1) -> int:
    """Optimizer steps of showing so many examples once."""
    return max(1, math.ceil(math.ceil(examples / (config.batch_size * processes)) / config.gradient_accumulation))


def training_arguments(config: TrainerConfig, output: Path, *, evaluates: bool, until: int | None = None) -> Any:
    """``transformers.TrainingArguments`` of a job, whose configuration is resolved.

    Args:
        until: The last step of a part of a continuous training, whose data are in order already.
    """
    import torch
    from transformers import TrainingArguments

    options: dict[str, Any] = _checkpointing(TrainingArguments) if config.gradient_checkpointing is True else {}
    if config.parallel == "fsdp":
        options["fsdp"] = True
    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=("cosine" if until is None else "constant_with_warmup") if config.scheduler == "auto" else config.scheduler,
        lr_scheduler_kwargs=dict(config.scheduler_options),
        warmup_steps=config.warmup if until is None or config.warmup >= 1 else WARMUP_STEPS,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=until or config.max_steps or -1,
        ignore_data_skip=until is not None,
        train_sampling_strategy="random" if until is None else "sequential",
        save_strategy="steps",
        save_steps=config.save_steps,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_steps if evaluates else None,
        logging_steps=config.logging_steps,
        # The filter asks the device at every step, only to hide what we want to see.
        logging_nan_inf_filter=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.dtype == "bfloat16",
        fp16=config.dtype == "float16",
        **options,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def _checkpointing(arguments: Any) -> dict[str, Any]:
    """Gradient checkpointing by the name that it has in this version of transformers."""
    name = "activation_checkpointing" if "activation_checkpointing" in arguments.__dataclass_fields__ else "gradient_checkpointing"
    # The other kind needs inputs with gradients, which a frozen base lacks.
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}
