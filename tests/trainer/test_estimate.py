"""Memory and time before a training: the arithmetic holds what it says, and is near what torch really keeps."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support import trainbus
from trainbus.trainer_node import records
from trainbus.trainer_node.config import Summary, TrainerConfig
from trainbus.trainer_node.estimate import BYTES, Work, advise_batch, largest_batch, memory, tokens_per_second, work_of
from trainbus.trainer_node.records import RunRecord
from trainbus.trainer_node.shape import from_config, shape_of

LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
SMALL = {
    "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 2000, "tie_word_embeddings": True,
}  # fmt: skip
GIB = 1 << 30
TOKENS = (4, 256)


def test_a_7b_model_has_the_parameters_and_the_bytes_that_it_is_known_for():
    """6.74 billion; 16 bytes each for full training in float32; under 24 GiB only in 4 bits."""
    shape = from_config(LLAMA_7B)
    assert shape.parameters == 6_738_415_616
    assert shape.adapters(16) == 39_976_960
    full = memory(shape, Work(method="full", dtype="float32", batch=1, length=512))
    assert full.weights + full.gradients + full.optimizer == 16 * shape.parameters
    lora = memory(shape, Work(method="lora", dtype="bfloat16", batch=1, length=512, checkpointing=True))
    qlora = memory(shape, Work(method="qlora", dtype="bfloat16", batch=1, length=512, checkpointing=True))
    assert lora.weights == 2 * shape.parameters
    assert qlora.weights / shape.parameters == pytest.approx(0.65, abs=0.02)
    assert qlora.total < 8 * GIB < lora.total < 24 * GIB < full.total
    assert largest_batch(shape, Work(method="full", dtype="float32", batch=1, length=512), 24 * GIB) == 0
    assert largest_batch(shape, Work(method="qlora", dtype="bfloat16", batch=1, length=512, checkpointing=True), 24 * GIB) >= 8


def kept_for_the_backward_pass(method, dtype):
    """Bytes of activations of a real model, without those of the loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SMALL)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if method == "full" else getattr(torch, dtype))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(parameter.shape) for parameter in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in shapes and SMALL["vocab_size"] not in tensor.shape:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor is held, so that no other takes its place
        return tensor

    ids = torch.randint(0, 1900, TOKENS)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != "float32")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(input_ids=ids, labels=ids)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_activations_are_estimated_within_a_third_of_what_torch_keeps(method, dtype):
    """Measured on a small model of four blocks: rather too much than too little."""
    tokens = TOKENS[0] * TOKENS[1]
    shape = from_config(SMALL)
    found = memory(shape, Work(method=method, dtype=dtype, batch=TOKENS[0], length=TOKENS[1]))
    blocks = found.activations - tokens * (BYTES[dtype] + 12) * shape.vocabulary
    assert 0.85 < blocks / kept_for_the_backward_pass(method, dtype) < 1.35


def test_the_speed_is_arithmetic_until_this_machine_has_a_history():
    """A 7B model on an RTX 4090: 35 % of 165 TFLOP/s, 4 operations a weight for adapters, 6 for all; then the median of what was."""
    shape = from_config(LLAMA_7B)
    lora = Work(method="lora", dtype="bfloat16", batch=1, length=512)
    speed, why = tokens_per_second(shape, lora, "NVIDIA GeForce RTX 4090", [], "m")
    assert speed == pytest.approx(0.35 * 165e12 / (4 * 6_738_415_616))
    assert "165" in why
    full = Work(method="full", dtype="bfloat16", batch=1, length=512)
    assert tokens_per_second(shape, full, "NVIDIA GeForce RTX 4090", [], "m")[0] == pytest.approx(speed * 4 / 6)
    assert tokens_per_second(shape, lora, "something else", [], "m") is None
    known = [
        RunRecord(timestamp="", run="r", dataset="d", model="m", method="lora", success=True, tokens_per_second=value)
        for value in (900.0, 1000.0, 5000.0)
    ]
    assert tokens_per_second(shape, lora, "NVIDIA GeForce RTX 4090", known, "m") == (1000.0, "3 trainings on this machine")
    assert tokens_per_second(shape, full, "something else", known, "m") is None


@pytest.mark.parametrize(
    ("batch", "peak", "total", "advised"), [(4, 10.5, 24, 8), (4, 21, 24, 4), (4, 2, 24, 16), (8, 24, 24, 7), (1, 30, 24, 1), (2, 0, 24, 2)]
)
def test_batch_advice_fills_21_of_24_parts_and_at_most_four_times_the_batch(batch, peak, total, advised):
    """batch x 21 / peak on a card of 24 GB, never more than fourfold, never below one."""
    assert advise_batch(batch, int(peak * GIB), total * GIB) == advised


def test_the_shape_is_read_from_a_model_on_disk_without_loading_it(tiny_base, tmp_path):
    """The weights are counted by the headers of their files; a fresh model by its configuration; what is not here is not known."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert shape_of(str(tiny_base)).parameters == sum(parameter.numel() for parameter in loaded.parameters())
    (tmp_path / "fresh.json").write_text('{"hidden_size": 64}')
    assert shape_of(f"config:{tmp_path / 'fresh.json'}").hidden == 64
    assert shape_of("nobody/has-this") is None
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"hidden_size": "wide"}')
    assert shape_of(str(tmp_path / "broken")) is None


def test_every_training_leaves_one_line_with_all_fields_of_the_record(trainbus_home):
    """Timestamp to peak memory; lines that were cut are passed over."""
    config = TrainerConfig(model="m", batch_size=4, gradient_accumulation=2, max_length=512)
    summary = Summary(
        run="r-1", outcome="completed", output="out", seconds=60.0, steps=9, file_examples=70, longest=300, tokens_per_second=123.0,
        peak_memory=7,
    )  # fmt: skip
    records.append(records.of_summary(config, summary, "a.jsonl"))
    with records.records_file().open("a") as file:
        file.write('{"timestamp": "2026')
        file.write("\n")
    records.append(records.of_failure(config, "r-1", "b.jsonl", "it broke", 3.0))
    first, second = records.read()
    assert (first.dataset, first.samples, first.success, first.runtime) == ("a.jsonl", 70, True, 60.0)
    assert (first.batch_size, first.gradient_accumulation, first.effective_batch) == (4, 2, 8)
    assert (first.max_length, first.longest, first.headroom, first.tokens_per_second, first.peak_memory) == (512, 300, 212, 123.0, 7)
    assert (second.success, second.reason) == (False, "it broke")
    assert first.timestamp.endswith("Z")


def test_train_estimate_says_what_is_needed_and_trains_nothing(tiny_base, questions, tmp_path):
    """As a table and as JSON; a model that is not here can't be estimated."""
    arguments = ["train", str(questions), "--model", str(tiny_base), "--output", str(tmp_path / "out"), "--estimate"]
    shown = trainbus(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert "activations" in shown.stdout
    found = json.loads(trainbus(*arguments, "--json").stdout)
    assert found["memory"]["weights"] > 0
    assert not (tmp_path / "out").exists()
    assert trainbus("train", str(questions), "--model", "nobody/has-this", "--estimate").returncode == 1


def test_the_work_follows_the_configuration():
    """Type and length as configured."""
    work = work_of(TrainerConfig(dtype="bfloat16", max_length=99, batch_size=3, method="full"), accelerator=False)
    assert (work.dtype, work.length, work.batch, work.method) == ("bfloat16", 99, 3, "full")
