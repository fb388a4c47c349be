"""A tiny model and tokenizer, tiny data, and what a run has published."""

from __future__ import annotations

import json
import os

import pytest

from tests.support import wait_for

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test never asks the network, and a wrong name fails at once

# Multiples of 64: bitsandbytes on the CPU packs 4-bit weights in blocks of that size when it evaluates.
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Directory of a model with a few thousand weights and its byte-level tokenizer."""
    import torch

    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
    from trainbus.trainer_node.model import SMALL_QWEN3, from_config

    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer(256)
    from_config({**SMALL_QWEN3, **SHAPE}, tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """A file of 40 questions with answers of different lengths."""
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+{i}=", "answer": str(2 * i) * (1 + i % 3)}) + "\n" for i in range(40)))
    return path


@pytest.fixture
def published(trainbus_home):
    """All events that closed runs left in their spools (no broker runs), in the order of their stamps."""

    def read(kind=None):
        from trainbus.bus.events import decode
        from trainbus.bus.outbox import Outbox
        from trainbus.bus.spool import Spool, spool_root, try_lock

        found = []
        for path in spool_root(trainbus_home).iterdir():
            spool, segments = Spool.recover(path, wait_for(lambda path=path: try_lock(path)))  # it closes without being waited for
            outbox = Outbox.recover(spool, segments)
            seq = 0
            while seq < outbox.next:
                bodies = outbox.take(seq, 1000, 1 << 20)
                found += [decode(bytes(body)) for body in bodies]
                seq += len(bodies)
            outbox.close()
        found.sort(key=lambda event: (event.time, event.seq))
        return [event for event in found if kind in (None, event.kind)]

    return read
