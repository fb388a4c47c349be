"""Packed examples: each is there once and whole, none sees another, and the loss is what it is without packing."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from trainbus.errors import ConfigError, ModelError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.callback import TrainbusCallback
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.packing import Packed, best_fit, require_isolation
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.tokens import IGNORED, Collator, tokenize

SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "vocab_size": 300, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture
def conversations():
    """Tokenised conversations of different lengths, some of several turns, and a plain text."""
    chance = random.Random(0)

    def text():
        return "".join(chance.choices("abcdefgh ", k=chance.randint(1, 12)))

    examples = [
        Example(turns=tuple(Turn(role, text()) for _ in range(chance.randint(1, 3)) for role in ("user", "assistant")), line=line)
        for line in range(1, 25)
    ]
    return tokenize([*examples, Example(text="plain text, learned from its second token on", line=25)], byte_tokenizer(), 120)


def make(kind="qwen3", attention="sdpa", **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **more}), attn_implementation=attention)


def test_each_length_gets_a_bin_that_has_room_and_few_bins_are_made():
    """Best fit decreasing: never too full, and within the known bound of 11/9 of the least possible number."""
    chance = np.random.default_rng(0)
    for size in (16, 1000):
        lengths = chance.integers(1, size + 1, 500)
        bins = best_fit(lengths, size)
        assert np.bincount(bins, lengths).max() <= size
        assert bins.max() + 1 <= 11 / 9 * np.ceil(lengths.sum() / size) + 6 or bins.max() + 1 <= (lengths > size / 2).sum() * 11 / 9 + 6
    assert best_fit(np.array([6, 4, 7, 3]), 10).tolist() == [1, 1, 0, 0]


def test_each_example_is_in_one_pack_whole_with_its_own_positions_and_labels(conversations):
    """What carries loss is the same as without packing (A-81), but for first tokens, which nothing of their own example predicts."""
    packed = Packed(conversations, 120)
    seen = []
    assert len(packed) < len(conversations)
    for index in range(len(packed)):
        row = packed[index]
        assert len(row["input_ids"]) == packed.lengths()[index] <= 120
        at = 0
        for member in packed.members(index).tolist():
            example = conversations[member]
            end = at + len(example["input_ids"])
            assert row["input_ids"][at:end] == example["input_ids"]
            assert row["labels"][at:end] == [IGNORED, *example["labels"][1:]]
            assert row["position_ids"][at:end] == list(range(end - at))
            seen.append(member)
            at = end
        assert at == len(row["input_ids"])
    assert sorted(seen) == list(range(len(conversations)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "more"), [("qwen3", {}), ("gemma3_text", {"sliding_window": 4}), ("gpt2", {"n_embd": 64, "n_head": 2})])
def test_logits_of_packed_examples_are_those_of_the_examples_alone(conversations, kind, more, attention):
    """To 1e-5, also beside padding, in a batch, and with a sliding window; and so is the summed loss."""
    model = make(kind, attention, **more).eval()
    packed = Packed(conversations, 120)
    indices = sorted(range(len(packed)), key=lambda index: packed.lengths()[index])[:3]
    batch = Collator(0)([packed[index] for index in indices])
    assert len(set(packed.lengths()[indices].tolist())) > 1
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        alone_loss = 0.0
        for row, index in enumerate(indices):
            at = 0
            for member in packed.members(index).tolist():
                single = Collator(0)([conversations[member]])
                alone = model(**single, use_cache=False).logits[0]
                torch.testing.assert_close(together[row, at : at + len(alone)], alone, rtol=0, atol=1e-5)
                alone_loss += float(torch.nn.functional.cross_entropy(alone[:-1], single["labels"][0, 1:], reduction="sum"))
                at += len(alone)
        loss = torch.nn.functional.cross_entropy(together[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    assert float(loss) == pytest.approx(alone_loss, rel=1e-5)


def test_models_that_keep_packed_examples_apart_are_let_through():
    """In training, with dropout on, and with the random numbers left as they were."""
    model = make("qwen3", attention_dropout=0.5).train()
    before = torch.random.get_rng_state()
    require_isolation(model, 4)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("kind", "more"), [("bloom", {"n_head": 2}), ("mamba", {}), ("opt", {"word_embed_proj_dim": 64, "ffn_dim": 64})])
def test_models_that_would_let_packed_examples_see_each_other_are_refused(kind, more):
    """Asked themselves: models that have no positions, no attention, or a mask of their own."""
    model = make(kind, "eager", **more)
    with pytest.raises(ModelError, match="can't keep packed examples apart") as caught:
        require_isolation(model, 1)
    assert "packing = false" in caught.value.hint


def test_flash_attention_takes_packs_in_batches_of_one_row():
    """Its positions are understood in one row only; the setting to change is named."""
    model = make()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match="batch_size = 2") as caught:
        require_isolation(model, 2)
    assert caught.value.facts["key"] == "trainer.batch_size"


@pytest.fixture
def shown(monkeypatch):
    """The tokens of every example that the model was trained on; packs are taken apart where positions begin again."""
    seen = []
    original = Trainer.training_step

    def training_step(self, model, inputs, *rest):
        assert "attention_mask" not in inputs
        for ids, positions in zip(inputs["input_ids"].tolist(), inputs["position_ids"].tolist(), strict=True):
            starts = [place for place, position in enumerate(positions) if position == 0] + [len(ids)]
            seen.extend(tuple(ids[a:b]) for a, b in itertools.pairwise(starts))
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    return seen


def test_a_packed_file_that_is_interrupted_shows_each_example_once(tiny_base, tmp_path, shown, monkeypatch, published):
    """Stopped in the middle and gone on with: positions count packs, the figures examples, and none is lost or shown again."""
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"question": f"what is {i}?", "answer": str(i) * (1 + i % 4)}) + "\n" for i in range(1000, 1040)))
    config = TrainerConfig(
        model=str(tiny_base), data=str(path), output=str(tmp_path / "out"), name="inbox", method="full", save_steps=100, batch_size=2,
        max_length=96, packing=True, warmup=2,
    )  # fmt: skip
    part = Part(job="d", run="inbox-out", unfinished=("d",))
    original = TrainbusCallback.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == 3:
            self.request_stop("signal SIGTERM")
        original(self, args, state, control, **rest)

    monkeypatch.setattr(TrainbusCallback, "on_step_end", on_step_end)
    first = run_job(config, part=part)
    assert (first.outcome, first.steps) == ("stopped", 3)
    monkeypatch.setattr(TrainbusCallback, "on_step_end", original)
    second = run_job(config, part=part)
    assert (second.outcome, second.file_examples, second.examples) == ("completed", 40, 40)
    marker = checkpoints.read_marker(checkpoints.listed(tmp_path / "out")[-1])
    assert (marker.examples, marker.positions["d"] < 40) == (40, True)
    counted = [step.examples for step in published("step")]
    assert (counted[2], counted[-1]) == (first.examples, 40)
    assert first.examples > 3 * config.batch_size
    expected = tokenize(
        [Example(turns=(Turn("user", f"what is {i}?"), Turn("assistant", str(i) * (1 + i % 4)))) for i in range(1000, 1040)],
        byte_tokenizer(), 96,
    )  # fmt: skip
    examples = [one for one in shown if any(one)]  # padding is one more, of the padding token alone
    assert sorted(examples) == sorted(tuple(expected[i]["input_ids"]) for i in range(40))
