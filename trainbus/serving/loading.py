"""Models from folders: safetensors only, nothing of a folder is ever run. torch and transformers are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import ModelError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
UNSAFE = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")

SAFE_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin a LoRA adapter that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change the base's own weights."""

REASON_CHARACTERS = 200
"""So much of a foreign error's first line is shown."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Loaded(NamedTuple):
    """A model in evaluation mode and its tokenizer. ``adapter`` is to be put on it: the place, or what was named besides."""

    model: Any
    tokenizer: Any
    place: Path
    adapter: Path | None
    bytes: int


def load(
    place: str | Path, *, adapter: str | Path | None = None, base: str | Path | None = None, device: str = "auto", dtype: str = "auto"
) -> Loaded:
    """Load a model from a folder on this machine.

    Only safetensors are read; neither pickle nor code of the folder is. Nothing is fetched from the network.

    Args:
        place: A model's folder, or that of an adapter, which finds its base by ``base_model_name_or_path`` (as it is, or relative to
            the adapter's folder).
        adapter: An adapter's folder, for a place that is a base.
        base: The base's folder, where the adapter does not know it or knows another machine's path.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (as stored on a GPU, float32 on a CPU) or one of `DTYPES`.

    Raises:
        ModelError: There is no model that can be loaded; it names what is missing or not trusted.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(place).expanduser()
    chosen = Path(adapter).expanduser() if adapter else None
    if is_adapter(folder):
        if chosen is not None:
            raise ModelError(f"{folder} is an adapter itself.", hint="Name its base model and the adapter, or the adapter alone.")
        folder, chosen = Path(base).expanduser() if base else base_of(folder), folder
    if chosen is not None:
        check_adapter(chosen)
    check_model(folder)
    where = _device(device)
    if dtype not in DTYPES:
        raise ModelError(f"There is no data type {dtype!r}.", hint=f"It is one of {', '.join(DTYPES)}.", found=dtype, allowed=list(DTYPES))
    kind = ("auto" if where.type != "cpu" else torch.float32) if dtype == "auto" else getattr(torch, dtype)
    tokenizer = load_tokenizer(folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, use_safetensors=True, trust_remote_code=False, local_files_only=True, weights_only=True
        )
        model = model.to(where).eval()
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        raise ModelError(
            f"The model in {folder} can't be loaded: {reason(error)}", hint="Its files may be damaged: fetch it again.", file=str(folder)
        ) from error
    model.requires_grad_(False)
    size = sum(part.numel() * part.element_size() for part in (*model.parameters(), *model.buffers()))
    return Loaded(model, tokenizer, folder, chosen, size)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder.

    Raises:
        ModelError: There is none.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZERS):
        hint = "Copy the tokenizer's files into it."
        raise ModelError(f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}).", hint=hint, file=str(folder))
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        raise ModelError(f"The tokenizer in {folder} can't be loaded: {reason(error)}", hint="Is it complete?", file=str(folder)) from error


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def check_model(folder: Path) -> None:
    """Refuse what is no model in safetensors.

    Raises:
        ModelError: It names what is missing.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}.", hint="Models are loaded from folders on this machine.", file=str(folder))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model: it has no config.json.", hint="Give the folder of a model.", file=str(folder))
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise _no_safetensors(folder, WEIGHTS[0])


def check_adapter(folder: Path) -> dict[str, Any]:
    """The configuration of a LoRA adapter that leaves its base as it is.

    Raises:
        ModelError: It is none, or it would change the base, or bring code along.
    """
    config = adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise _no_safetensors(folder, ADAPTER_WEIGHTS)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder} is an adapter of type {config.get('peft_type')!r}.", hint="LoRA adapters can be served.")
    if (begun := config.get("init_lora_weights", True)) not in SAFE_INITS:
        hint = "Convert it to plain LoRA when saving (PEFT: path_initial_model_for_weight_conversion), or merge it into its base."
        raise ModelError(f"The adapter in {folder} was begun by {begun!r}, which changes the base's own weights.", hint=hint)
    for key in ("layer_replication", "megatron_config"):
        if config.get(key):
            raise ModelError(f"The adapter in {folder} sets {key}, which changes the base.", hint="Merge it into its base.", key=key)
    return config


def adapter_config(folder: Path) -> dict[str, Any]:
    """An adapter's ``adapter_config.json``.

    Raises:
        ModelError: There is none, or it is no JSON object.
    """
    path = folder / ADAPTER_CONFIG
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ModelError(f"{folder} is no adapter: {ADAPTER_CONFIG}: {error.strerror}.", hint="Check the path.", file=str(path)) from error
    except DECODE_ERRORS as error:
        raise ModelError(f"{path} is no JSON object: {error}.", hint="Save the adapter again.", file=str(path)) from error


def base_of(folder: Path) -> Path:
    """The folder of an adapter's base model.

    Raises:
        ModelError: It names none, or one that is not on this machine.
    """
    named = adapter_config(folder).get("base_model_name_or_path") or ""
    for path in (Path(named).expanduser(), folder / named) if named else ():
        if (path / "config.json").is_file():
            return path
    raise ModelError(
        f"The adapter in {folder} was trained on {named or 'a base that it does not name'}, which is no folder here.",
        hint="Name the folder of its base model.",
        file=str(folder),
        base=named,
    )


def reason(error: BaseException) -> str:
    """The first line of a foreign error, cut: transformers lists all 500 architectures that it knows."""
    words = str(error).strip().splitlines()
    line = words[0] if words else type(error).__name__
    return line if len(line) <= REASON_CHARACTERS else f"{line[:REASON_CHARACTERS].rsplit(' ', 1)[0]} ..."


def _no_safetensors(folder: Path, wanted: str) -> ModelError:
    if unsafe := [name for name in UNSAFE if (folder / name).is_file()]:
        hint = "Save it with safe_serialization=True: a pickle can run anything when it is loaded, so none is."
        return ModelError(f"The weights in {folder} are a pickle ({unsafe[0]}).", hint=hint, file=str(folder))
    return ModelError(f"{folder} has no weights ({wanted}).", hint="Is it complete?", file=str(folder))


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        raise ModelError(f"The device {name} can't be used: {reason(error)}", hint="Try auto or cpu.", found=name) from error
