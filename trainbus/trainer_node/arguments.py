"""`TrainerConfig` in the words of transformers. Imports transformers inside: load only where training runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainbus.trainer_node.config import TrainerConfig


def total_steps(config: TrainerConfig, examples: int) -> int:
    """Optimizer steps of a whole training, counted as Trainer counts them (a last, smaller batch is a step)."""
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(examples / config.batch_size)
    return math.ceil(config.epochs * max(1, math.ceil(batches / config.gradient_accumulation)))


def training_arguments(config: TrainerConfig, output: Path, *, evaluates: bool) -> Any:
    """``transformers.TrainingArguments`` of a job."""
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
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
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
