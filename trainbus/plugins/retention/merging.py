"""Merges an adapter into its base model, in a process of its own: what that loads is gone from memory afterwards.

python -m trainbus.plugins.retention.merging SOURCE TARGET
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from trainbus.errors import ModelError
from trainbus.plugins.retention.verify import kind_of

NICENESS = 10
"""A training on the same machine goes first."""


def merge_adapter(source: Path, target: Path) -> None:
    """Merge a LoRA adapter into its base model, on the CPU: a training may need all of the GPU.

    Raises:
        ModelError: It is no adapter, its base can't be loaded, or the packages for it are missing.
    """
    if kind_of(source) != "adapter":
        raise ModelError(f"{source} holds no adapter to merge.", hint="Leave --merge out.", file=str(source))
    lifeline, ours = os.pipe()  # ends with this process, however it ends
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(source), str(target)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdin=lifeline,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    finally:
        os.close(lifeline)
        os.close(ours)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        missing = "No module named" in said[-1]
        hint = "pip install 'trainbus[trainer]'." if missing else "Is its base model still there, and is there memory for it?"
        raise ModelError(f"{source} can't be merged: {said[-1]}", hint=hint, file=str(source))


def main(source: str, target: str) -> None:
    """What the process does."""
    os.nice(NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = json.loads((Path(source) / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), source)
    model.merge_and_unload().save_pretrained(target)
    for place in (source, base):
        try:
            AutoTokenizer.from_pretrained(place).save_pretrained(target)
            break
        except (OSError, ValueError):
            continue


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
