"""The key-value cache changes nothing but speed, whoever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from tests.serving.conftest import SHAPE, make_model
from trainbus.serving.batch import Batch
from trainbus.serving.loading import load

TOLERANCE = 1e-5
"""Of log-probabilities in float32."""

PROMPTS = ([70, 71, 72], [80, 81, 82, 83, 84, 85, 86, 87, 88], [90], [91, 92, 93, 94])


def uncached(model, ids):
    """The log-probabilities after a text, without any cache or padding."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)


def same(model, batch_logits, texts):
    """Each row's log-probabilities are those of its text alone."""
    for logits, text in zip(batch_logits, texts, strict=True):
        torch.testing.assert_close(logits.log_softmax(-1), uncached(model, text), atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_cached_logits_are_the_uncached_ones_whoever_joins_and_leaves(loaded):
    """Rows of different lengths join, go on, leave in any order, and join again: each row's logits stay those of its own text."""
    batch = Batch(loaded.model)
    texts = [list(prompt) for prompt in PROMPTS[:2]]
    same(loaded.model, batch.join(texts), texts)
    for token in range(60, 66):
        texts = [[*text, token] for text in texts]
        same(loaded.model, batch.step([token] * len(texts)), texts)
    late = [list(prompt) for prompt in PROMPTS[2:]]
    same(loaded.model, batch.join(late), late)
    texts += late
    for kept in ([0, 1, 3], [0, 2], [1]):  # the longest leaves in the second round, so that the padding shrinks
        batch.keep(kept)
        texts = [[*texts[number], 77] for number in kept]
        same(loaded.model, batch.step([77] * len(texts)), texts)
    batch.keep([])
    assert batch.size == 0
    same(loaded.model, batch.join([PROMPTS[0]]), [PROMPTS[0]])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4}, marks=pytest.mark.slow),
        pytest.param({"model_type": "mistral", "sliding_window": 4}, marks=pytest.mark.slow),
        {"model_type": "gemma3_text", "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ],
    ids=lambda more: more["model_type"],
)
@torch.inference_mode()
def test_other_architectures_keep_their_logits_too(more, tmp_path):
    """Learned positions, and windows that are shorter than the text."""
    model = load(make_model(tmp_path / "model", {**SHAPE, **more}), device="cpu").model
    batch = Batch(model)
    texts = [list(prompt) for prompt in PROMPTS[:2]]
    same(model, batch.join(texts), texts)
    late = [list(PROMPTS[3])]
    same(model, batch.join(late), late)
    texts += late
    for token in range(60, 70):
        texts = [[*text, token] for text in texts]
        same(model, batch.step([token] * len(texts)), texts)
    batch.keep([0, 2])
    texts = [[*texts[number], 50] for number in (0, 2)]
    same(model, batch.step([50, 50]), texts)
