"""How likely a model finds given answers: one pass over prompt and answer, without drawing anything. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from trainbus.serving.batch import padded, positions

LOGIT_BYTES = 512 << 20
"""Logits of so many bytes are made at once: 4 for each row, answer token and word of the vocabulary."""


class Given(NamedTuple):
    """An answer to score. Without a prompt its first token has no probability."""

    prompt: Sequence[int]
    answer: Sequence[int]
    alternatives: int


class Likelihood(NamedTuple):
    """Of one token: its log-probability, the likeliest ids with theirs, and the entropy (nats) of the distribution at its place."""

    logprob: float | None
    top: list[tuple[int, float]]
    entropy: float | None = None


def likelihoods(model: Any, items: Sequence[Given], max_rows: int) -> Iterator[list[Likelihood]]:
    """For each item, the likelihood of each token of its answer."""
    vocabulary = model.config.get_text_config().vocab_size
    begin = 0
    while begin < len(items):
        longest = max(len(item.answer) for item in items[begin : begin + max_rows]) + 1
        rows = max(1, min(max_rows, LOGIT_BYTES // (4 * longest * vocabulary)))
        yield from _scored(model, items[begin : begin + rows])
        begin += rows


def _scored(model: Any, items: Sequence[Given]) -> Iterator[list[Likelihood]]:
    ids, mask = padded([[*item.prompt, *item.answer] or [0] for item in items], model.device)
    needed = min(max(len(item.answer) for item in items) + 1, ids.shape[1])
    accepted = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"position_ids": positions(mask)} if "position_ids" in accepted else {}
    if "logits_to_keep" in accepted:  # padding is on the left, so the answers stand at the end
        more["logits_to_keep"] = needed
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits[:, -needed:]
    for row, item in zip(logits, items, strict=True):
        known = len(item.answer) if item.prompt else len(item.answer) - 1
        unknown = [Likelihood(None, [])] * (len(item.answer) - max(known, 0))
        yield unknown + (told(row[needed - known - 1 : needed - 1], item.answer[-known:], item.alternatives) if known > 0 else [])


def told(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> list[Likelihood]:
    """The likelihoods of tokens, each by the logits (a row for each token) of its place."""
    logs = logits.float().log_softmax(-1)
    chosen = logs.gather(-1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0].tolist()
    entropies = torch.special.entr(logs.exp()).sum(-1).tolist()
    if not alternatives:
        return [Likelihood(value, [], entropy) for value, entropy in zip(chosen, entropies, strict=True)]
    values, best = logs.topk(min(alternatives, logs.shape[-1]))
    tops = [list(zip(ids, logprobs, strict=True)) for ids, logprobs in zip(best.tolist(), values.tolist(), strict=True)]
    return [Likelihood(*one) for one in zip(chosen, tops, entropies, strict=True)]
