"""The one place where a model and its tokenizer are made. Imports torch and transformers inside: load only where training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.data import is_hub_name
from trainbus.trainer_node.precision import weights_dtype

FRESH = "config:"
"""Prefix of a model that is made from a configuration file instead of loaded."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")

REASON_CHARACTERS = 200
"""So much of a foreign error's first line is shown."""

# A fresh model's configuration needs to name only what differs from this small Qwen3.
SMALL_QWEN3: Mapping[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


class Built(NamedTuple):
    """A model ready for Trainer, its tokenizer, and how many of its parameters will be trained."""

    model: Any
    tokenizer: Any
    trainable: int
    total: int


def check(config: TrainerConfig) -> None:
    """Refuse what can be refused without loading anything: no model named, or a local path that is none.

    Raises:
        ModelError: It names what is missing.
    """
    if not config.model:
        raise ModelError("No model is named.", hint="Set `model` under [trainer], or --model DIRECTORY or NAME.", key="trainer.model")
    if config.model.startswith(FRESH):
        _read_config(Path(config.model.removeprefix(FRESH)))
        return
    path = Path(config.model).expanduser()
    if path.exists():
        if missing := missing_parts(path):
            raise ModelError(f"{path} is not a model: {'; '.join(missing)}.", hint=_advice(path), file=str(path), missing=missing)
    elif not is_hub_name(config.model):
        raise ModelError(f"There is no model directory {config.model}.", hint="Check the path, or give a hub name.", file=config.model)


def missing_parts(path: Path) -> list[str]:
    """What a local directory lacks to be a model; empty when it is one."""
    if not path.is_dir():
        return ["it is a file, and a model is a directory"]
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json is missing")
    if not any((path / name).is_file() for name in WEIGHTS):
        missing.append(f"weights are missing (one of {', '.join(WEIGHTS[:3])})")
    return missing


def build(config: TrainerConfig) -> Built:
    """Load or make the model, and put adapters on it where the method says so.

    Raises:
        ModelError: It can't be loaded, with what to do.
    """
    check(config)
    import torch
    from transformers import set_seed

    set_seed(config.seed)  # a fresh model and fresh adapters are the same for the same seed
    tokenizer = load_tokenizer(config)
    fresh = config.model.startswith(FRESH)
    if fresh and config.method == "qlora":
        raise ModelError("A fresh model has no weights to keep in 4 bits.", hint='Use method = "full" or "lora".', key="trainer.method")
    model = _fresh(config, tokenizer) if fresh else _pretrained(config)
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))
    model.config.use_cache = False  # training never reads the cache
    if config.method != "full":
        model = _with_adapters(model, config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert isinstance(model, torch.nn.Module)
    return Built(model, tokenizer, trainable, total)


def load_tokenizer(config: TrainerConfig) -> Any:
    """The tokenizer of the configured model, or the one that is named in its place.

    Raises:
        ModelError: There is none, or it can't be used.
    """
    from transformers import AutoTokenizer

    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer

    source = config.tokenizer or config.model
    if not config.tokenizer and config.model.startswith(FRESH):
        return byte_tokenizer()
    path = Path(source).expanduser()
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZERS):
        hint = "Set `tokenizer` to a directory or hub name that has one."
        raise ModelError(f"{path} has no tokenizer (none of {', '.join(TOKENIZERS)}).", hint=hint, file=str(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path) if path.is_dir() else source)
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        raise _unloadable("tokenizer", source, error) from error
    if not tokenizer.is_fast:
        hint = "Set `tokenizer` to one with a tokenizer.json."
        raise ModelError(f"The tokenizer of {source} does not tell where its tokens stand in the text.", hint=hint, file=source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ModelError(
            f"The model configuration {path} can't be read: {error.strerror}.", hint="Check the path.", file=str(path)
        ) from error
    except DECODE_ERRORS as error:
        hint = "It is a JSON object like a model's config.json."
        raise ModelError(f"The model configuration {path} is no JSON object: {error}.", hint=hint, file=str(path)) from error
    return {**SMALL_QWEN3, **given} if given.get("model_type", "qwen3") == "qwen3" else given


def _fresh(config: TrainerConfig, tokenizer: Any) -> Any:
    path = Path(config.model.removeprefix(FRESH))
    return from_config(_read_config(path), tokenizer, weights_dtype(config), source=str(path))


def from_config(settings: Mapping[str, Any], tokenizer: Any, dtype: str = "float32", *, source: str = "the configuration") -> Any:
    """A causal language model with fresh weights; vocabulary and special tokens are the tokenizer's.

    Raises:
        ModelError: transformers refuses the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **settings}
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**given), dtype=getattr(torch, dtype))
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        hint = "Compare it with the config.json of a model of that type."
        raise ModelError(f"No model can be made from {source}: {_reason(error)}", hint=hint, file=source) from error


def _pretrained(config: TrainerConfig) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    path = Path(config.model).expanduser()
    options: dict[str, Any] = {"dtype": getattr(torch, weights_dtype(config))}
    if config.method == "qlora":
        compute = torch.float16 if config.dtype == "float16" else torch.bfloat16
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
        if torch.cuda.is_available():  # without an accelerator a device map fails, and 4 bits work on the CPU
            options["device_map"] = {"": torch.cuda.current_device()}
    try:
        return AutoModelForCausalLM.from_pretrained(str(path) if path.is_dir() else config.model, **options)
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        raise _unloadable("model", config.model, error) from error


def _with_adapters(model: Any, config: TrainerConfig) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.targets(),
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        hint = 'Use "all-linear", or names of the model\'s modules separated by commas.'
        raise ModelError(f"Adapters can't be put on {config.lora_targets}: {error}", hint=hint, key="trainer.lora_targets") from error


def _reason(error: Exception) -> str:
    """The first line of a foreign error, cut: transformers lists all 500 architectures that it knows."""
    words = str(error).strip().splitlines()
    line = words[0] if words else type(error).__name__
    return line if len(line) <= REASON_CHARACTERS else f"{line[:REASON_CHARACTERS].rsplit(' ', 1)[0]} ..."


def _unloadable(what: str, source: str, error: Exception) -> ModelError:
    reason = _reason(error)
    if Path(source).expanduser().is_dir():
        return ModelError(
            f"The {what} in {source} can't be loaded: {reason}", hint="Its files may be damaged or incomplete: fetch it again.", file=source
        )
    hint = "Check the name and the network (and HF_TOKEN for gated models), or give a local directory."
    return ModelError(f"There is no directory {source}, and the hub does not give a {what} of that name: {reason}", hint=hint, file=source)


def _advice(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        return "It holds adapters: name their base model, and --resume-from to go on training them."
    inside = sorted(child.name for child in path.iterdir() if child.is_dir() and not missing_parts(child)) if path.is_dir() else []
    return f"Did you mean {path / inside[0]}?" if inside else "A model directory holds config.json, weights and a tokenizer."
