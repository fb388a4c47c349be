"""A base model for demonstrations, made on the spot: a small Qwen3 that has learnt to copy words, with a byte-level tokenizer.

Imports torch and transformers: load only where it is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainbus.demo.tasks import BASE_KINDS, stream
from trainbus.trainer_node import tokens
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.model import from_config

SHAPE: Mapping[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
STEPS = 240
BATCH = 64
LEARNING_RATE = 2e-3


def make_base(directory: Path, *, steps: int = STEPS, seed: int = 1, progress: Callable[[float], None] | None = None) -> Path:
    """Make, teach and save the base model and its tokenizer; the same seed gives the same model.

    Args:
        directory: Where it goes; a model that is there already is kept.
        steps: Steps of teaching (about a tenth of a second each on 2 cores); 0 leaves the weights as they are made.
        progress: Called with the fraction that is done.
    """
    if (directory / "config.json").is_file() and (directory / "model.safetensors").is_file():
        return directory
    import torch

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(512)
    model = from_config(SHAPE, tokenizer)
    _teach(model, tokenizer, steps, seed, progress)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _teach(model: Any, tokenizer: Any, steps: int, seed: int, progress: Callable[[float], None] | None) -> None:
    import torch

    collate = tokens.Collator(tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(1, steps), pct_start=0.1)
    source = stream(seed, BASE_KINDS)
    model.train()
    for step in range(steps):
        batch = [Example(turns=(Turn("user", task.question), Turn("assistant", task.answer))) for task in itertools.islice(source, BATCH)]
        dataset = tokens.tokenize(batch, tokenizer, 512)
        loss = model(**collate([dataset[i] for i in range(len(dataset))])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress((step + 1) / steps)
    model.eval()
