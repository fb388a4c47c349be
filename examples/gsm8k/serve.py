"""Answers questions from the checkpoints of this example, for the inference plugin: an OpenAI-compatible server on one CPU thread.

For pretrained models use vLLM, llama.cpp or any other server instead, and set [plugin.inference] url in trainbus.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainbus.demo.server import main
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.model import build

HERE = Path(__file__).resolve().parent
BASE = HERE / "base"

if __name__ == "__main__":
    if not (BASE / "config.json").exists():
        made = build(TrainerConfig(model=f"config:{HERE / 'model.json'}", method="full"))
        made.model.save_pretrained(BASE)
        made.tokenizer.save_pretrained(BASE)
    main(["--base", str(BASE), "--allow", str(HERE / "runs"), *(sys.argv[1:] or ["--port", "8000"])])
