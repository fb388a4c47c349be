"""A tiny base model, two adapters over it, and a generator, made once."""

from __future__ import annotations

import pytest

SHAPE = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def make_model(directory, shape=SHAPE, seed=3):
    """A model with random weights whose logits lie well apart, and a byte tokenizer."""
    import torch

    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
    from trainbus.trainer_node.model import from_config

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(512)
    model = from_config(shape, tokenizer)
    with torch.no_grad():
        for part in model.parameters():
            if part.dim() == 2:
                part.mul_(8)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_adapter(base, directory, seed, **settings):
    """A LoRA adapter with random weights, so that it changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 64, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False, **settings}
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Beside other work on the machine, several threads of torch would wait for each other at every layer."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with ``base`` and the adapters ``checkpoint-1`` and ``checkpoint-2``."""
    root = tmp_path_factory.mktemp("models")
    base = make_model(root / "base")
    for number in (1, 2):
        make_adapter(base, root / f"checkpoint-{number}", number)
    return root


@pytest.fixture(scope="session")
def loaded(models):
    """The base, loaded."""
    from trainbus.serving.loading import load

    return load(models / "base", device="cpu")


@pytest.fixture(scope="module")
def generator(loaded):
    """A generator over the base."""
    from trainbus.serving.generation import Generator

    with Generator(loaded.model, loaded.tokenizer) as made:
        yield made
