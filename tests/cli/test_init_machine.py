"""What `trainbus init` suggests for machines of different sizes, as an expert would."""

from __future__ import annotations

import msgspec
import pytest

from trainbus.cli.hardware import Device, Hardware, look
from trainbus.cli.init import template
from trainbus.cli.suggest import suggest
from trainbus.trainer_node.config import TrainerConfig

GIB = 1 << 30


def machine(*gpus, disk=800):
    return Hardware(
        memory=64 * GIB, available=60 * GIB, processors=16, devices=tuple(Device(f"GPU {size}", size * GIB, size * GIB) for size in gpus),
        disk=disk * GIB,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hardware", "method", "max_length"),
    [(machine(24), "qlora", 2048), (machine(16), "qlora", 1024), (machine(80), "lora", 4096), (machine(80, 24), "qlora", 2048)],
)
def test_a_gpu_gets_the_longest_examples_with_which_an_8b_model_fits(hardware, method, max_length):
    """4 bits on the usual card, 16 on a large one; of several the smallest counts. A step sees sixteen examples."""
    found = {one.key: one.value for one in suggest(hardware)}
    assert (found["method"], found["max_length"]) == (method, max_length)
    assert found["batch_size"] * found["gradient_accumulation"] == 16
    assert found["free_disk"] == 5120
    msgspec.convert(found, TrainerConfig)


@pytest.mark.parametrize("hardware", [machine(disk=20), Hardware(), machine(4, disk=20)])
def test_a_machine_with_little_gets_what_still_works(hardware):
    """Adapters for a small model on the CPU, the least on a tiny GPU; nothing is said of room that is not there."""
    found = {one.key: one.value for one in suggest(hardware)}
    assert found["max_length"] <= 512
    assert found["batch_size"] >= 1
    assert "free_disk" not in found
    msgspec.convert(found, TrainerConfig)


def test_the_file_names_the_machine_and_says_why(tmp_path):
    """A person reads what was found and what follows from it."""
    text = template(machine(24))
    assert "GPU 24 (24.0 GiB); 64.0 GiB of memory, 16 processors, 800.0 GiB of disk free" in text
    assert "a model of 8 billion parameters then needs about" in text
    found = look(tmp_path)
    assert found.disk > 0
    assert found.words()
