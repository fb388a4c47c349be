"""hf_trainer.py for torchrun: two processes over gloo; it knows nothing of trainbus."""

import os
import runpy
from pathlib import Path

if __name__ == "__main__":
    os.write(1, f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}\n".encode())  # in one piece, beside the other's
    runpy.run_path(str(Path(__file__).parent / "hf_trainer.py"), run_name="__main__")
