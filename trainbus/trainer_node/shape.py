"""What a model is made of, read from its config.json and the headers of its weights: nothing is loaded, and no torch is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.trainer_node.data import is_hub_name
from trainbus.trainer_node.model import FRESH, SMALL_QWEN3

BYTE_VOCABULARY = 512
"""Of a fresh model that says nothing else: bytes, special tokens, rounded up."""
LARGEST_HEADER = 100_000_000


class Shape(Struct, frozen=True, kw_only=True):
    """A decoder: ``parameters`` in all, ``embedding`` of them in tables of the vocabulary (input, and output where it is not the same)."""

    parameters: int
    embedding: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int

    @property
    def linear(self) -> int:
        """Parameters of the linear layers of all blocks: what LoRA stands beside, and what QLoRA keeps in 4 bits."""
        return self.parameters - self.embedding

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA of this rank beside every linear layer of a gated block: rank x (inputs + outputs) of each of the seven."""
        attention = 4 * self.hidden + 2 * self.queries + 2 * self.keys
        mlp = 3 * (self.hidden + self.intermediate)
        return rank * self.layers * (attention + mlp)


def shape_of(model: str) -> Shape | None:
    """The shape of a local model or a fresh one; None when it can't be known without fetching or loading anything."""
    try:
        if model.startswith(FRESH):
            given = msgspec.json.decode(Path(model.removeprefix(FRESH)).read_bytes(), type=dict[str, Any])
            return from_config({"vocab_size": BYTE_VOCABULARY, **SMALL_QWEN3, **given})
        path = _folder(model)
        given = msgspec.json.decode((path / "config.json").read_bytes(), type=dict[str, Any])
        return from_config(given, parameters=_counted(path))
    except (OSError, KeyError, TypeError, *DECODE_ERRORS):
        return None


def _folder(model: str) -> Path:
    """The directory of a model: as it is named, or where the hub's cache has it."""
    path = Path(model).expanduser()
    if not path.is_dir() and is_hub_name(model):
        with suppress(ImportError):
            from huggingface_hub import try_to_load_from_cache

            if isinstance(cached := try_to_load_from_cache(model, "config.json"), str):
                return Path(cached).parent
    return path


def from_config(given: Mapping[str, Any], parameters: int | None = None) -> Shape:
    """From a model's configuration (of a multimodal one, its text part).

    Raises:
        KeyError: It is none of a decoder.
    """
    text = {**given, **given.get("text_config", {})}
    hidden, layers, vocabulary = int(text["hidden_size"]), int(text["num_hidden_layers"]), int(text["vocab_size"])
    heads = int(text["num_attention_heads"])
    size = int(text.get("head_dim") or hidden // heads)
    queries, keys = heads * size, int(text.get("num_key_value_heads") or heads) * size
    intermediate = int(text.get("intermediate_size") or 4 * hidden)
    embedding = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    block = 2 * hidden * (queries + keys) + 3 * hidden * intermediate + 2 * hidden
    return Shape(
        parameters=parameters or embedding + layers * block + hidden,
        embedding=embedding,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        queries=queries,
        keys=keys,
        vocabulary=vocabulary,
    )


def _counted(path: Path) -> int | None:
    """The weights that are there, by the headers of safetensors: eight bytes of length, then JSON with the shape of each tensor."""
    total = 0
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = msgspec.json.decode(stream.read(min(length, LARGEST_HEADER)), type=dict[str, Any])
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None
