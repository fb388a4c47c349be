"""What a checkpoint holds only for resuming: optimizer, scheduler, random states. Without it the weights are as good as before."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.retention.recognition import NotACheckpoint

DISPOSABLE = re.compile(
    r"(optimizer|scheduler|scaler)(_\d+)?\.(pt|bin|safetensors)|rng_state(_\d+)?\.pth"
    r"|(global_step\d+|optimizer_\d+|pytorch_model_fsdp_optimizer_\d+)/.+"
)
"""As transformers, accelerate, DeepSpeed and FSDP name them."""


def is_disposable(relative: str) -> bool:
    """Whether a file, by its path in the checkpoint, is needed for resuming only."""
    return DISPOSABLE.fullmatch(relative) is not None


def disposable(path: Path) -> dict[str, int]:
    """Relative path → bytes of what thinning would take out of a checkpoint."""
    found = {}
    for directory, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not (Path(directory) / name).is_symlink()]
        for name in files:
            file = Path(directory) / name
            relative = file.relative_to(path).as_posix()
            if is_disposable(relative) and not file.is_symlink():
                found[relative] = file.stat().st_size
    return found


def thinned_marker(marker: bytes, files: list[str]) -> bytes:
    """The marker of a checkpoint without these files. Its id stays: it is still the same checkpoint.

    Raises:
        NotACheckpoint: It is damaged.
    """
    try:
        content = msgspec.json.decode(marker, type=dict[str, Any])
        listed = msgspec.convert(content.get("files", {}), dict[str, Any])
        before = msgspec.convert(content.get("thinned", []), list[str])
    except DECODE_ERRORS as error:
        raise NotACheckpoint(f"The marker can't be read: {error}.") from error
    content["files"] = {name: entry for name, entry in listed.items() if name not in files}
    content["thinned"] = sorted({*before, *files})
    return msgspec.json.format(msgspec.json.encode(content), indent=1)


def write_marker(path: Path, content: bytes) -> None:
    """Replace a marker as a whole."""
    partial = path.with_name(f".{path.name}.thin")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
