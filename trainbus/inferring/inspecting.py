"""What a model's folder says of itself, read from its JSON files and the heads of its safetensors: no weights are loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError
from trainbus.plugins.retention.verify import MAX_HEADER_BYTES, MAX_JSON_BYTES, files_of, kind_of

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Adapter(Struct, frozen=True, kw_only=True):
    """What an adapter is. ``base_found``: whether the base is a folder on this machine."""

    base: str
    base_found: bool
    type: str
    rank: int | None
    alpha: float | None
    targets: list[str]


class Inspection(Struct, frozen=True, kw_only=True):
    """One model or adapter.

    Args:
        kind: ``model`` or ``adapter``.
        parameters: Numbers in all weights; None where the weights are no safetensors.
        types: Data type → parameters of it.
        context: Positions that the model knows.
        chat_template: Whether it says how a conversation is written.
    """

    path: str
    kind: str
    bytes: int
    files: int
    parameters: int | None
    types: dict[str, int]
    architecture: str = ""
    layers: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    tokenizer: bool = False
    chat_template: bool = False
    adapter: Adapter | None = None


class _Tensor(Struct):
    dtype: str
    shape: list[int]


def inspect(path: Path) -> Inspection:
    """Look into a folder.

    Raises:
        ModelError: It holds no weights, or they are cut off.
    """
    kind = kind_of(path) if path.is_dir() else ""
    if not kind:
        what = "holds no weights" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} is no model: it {what}.", hint="Name a folder with config.json and safetensors.", file=str(path))
    sizes = [(path / relative).stat().st_size for relative in files_of(path)]
    adapter = _adapter(path) if kind == "adapter" else None
    config = _json(path / "config.json") or (_json(Path(adapter.base) / "config.json") if adapter and adapter.base_found else {})
    types = _parameters(path, kind)
    tokenizer = _json(path / "tokenizer_config.json")
    return Inspection(
        path=str(path),
        kind=kind,
        bytes=sum(sizes),
        files=len(sizes),
        parameters=sum(types.values()) if types else None,
        types=types,
        architecture=str((config.get("architectures") or [config.get("model_type", "")])[0]),
        layers=_number(config, "num_hidden_layers"),
        hidden_size=_number(config, "hidden_size"),
        vocabulary=_number(config, "vocab_size"),
        context=_number(config, "max_position_embeddings"),
        tokenizer=any((path / name).is_file() for name in TOKENIZERS),
        chat_template=bool(tokenizer.get("chat_template")) or (path / "chat_template.jinja").is_file(),
        adapter=adapter,
    )


def _adapter(path: Path) -> Adapter:
    config = _json(path / "adapter_config.json")
    base = str(config.get("base_model_name_or_path") or "")
    found = next((str(one) for one in (Path(base).expanduser(), path / base) if base and (one / "config.json").is_file()), "")
    targets = config.get("target_modules") or []
    alpha = config.get("lora_alpha")
    return Adapter(
        base=found or base,
        base_found=bool(found),
        type=str(config.get("peft_type", "")),
        rank=_number(config, "r"),
        alpha=float(alpha) if isinstance(alpha, int | float) else None,
        targets=sorted(map(str, targets)) if isinstance(targets, list) else [str(targets)],
    )


def _parameters(path: Path, kind: str) -> dict[str, int]:
    """By data type, from the heads of the weights' files."""
    prefix = "adapter_model" if kind == "adapter" else "model"
    types: dict[str, int] = {}
    for file in sorted(path.glob(f"{prefix}*.safetensors")):
        for tensor in _tensors(file):
            types[tensor.dtype] = types.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return types


def _tensors(file: Path) -> list[_Tensor]:
    """Eight bytes with the header's length, then the header: a tensor by each name but one."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = msgspec.json.decode(content.read(min(length, MAX_HEADER_BYTES)), type=dict[str, Any])
        return [msgspec.convert(entry, _Tensor) for name, entry in header.items() if name != "__metadata__"]
    except (OSError, *DECODE_ERRORS) as error:
        raise ModelError(f"{file} can't be read: {error}", hint="It may be cut off: fetch it again.", file=str(file)) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return {}
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, *DECODE_ERRORS):
        return {}


def _number(config: dict[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) else None
