"""Figures of each example from one forward pass: loss, entropy and calibration of the tokens that carry loss.

Logits are as large as a vocabulary for each token, so that they can't be kept until a set is measured: `measure` makes of each example
a row of a fixed width right away, and `summarise` makes metrics of all rows. Imports torch inside: load only where training runs.
"""

from __future__ import annotations

import math
from typing import Any

from trainbus.judging.statistics import BINS, binned_error
from trainbus.trainer_node.tokens import IGNORED

WIDTH = 3 + 3 * BINS
"""tokens, loss, entropy; then for each bin of confidence: tokens, confidences, right ones. All are sums."""

CHUNK_TOKENS = 256
"""Softmax in float32 over a vocabulary of 150,000 takes 150 MB for so many tokens, a few times over."""


def measure(logits: Any, labels: Any) -> Any:
    """Rows of figures, float32 (examples, `WIDTH`), of logits (examples, tokens, vocabulary) and labels (examples, tokens)."""
    import torch

    if isinstance(logits, tuple):
        logits = logits[0]
    rows = torch.zeros(len(labels), WIDTH, device=logits.device)
    for row, given, wanted in zip(rows, logits[:, :-1], labels[:, 1:], strict=True):
        places = (wanted != IGNORED).nonzero().squeeze(-1)
        for piece in places.split(CHUNK_TOKENS):
            _add(row, given[piece], wanted[piece])
    return rows


def _add(row: Any, logits: Any, wanted: Any) -> None:
    import torch

    logarithms = torch.log_softmax(logits.float(), dim=-1)
    row[0] += len(wanted)
    row[1] -= logarithms.gather(-1, wanted.unsqueeze(-1)).sum()
    row[2] += torch.special.entr(logarithms.exp()).sum()
    confidence, guess = logarithms.max(dim=-1)
    confidence = confidence.exp()
    place = (confidence.nan_to_num() * BINS).long().clamp(0, BINS - 1)
    bins = row[3:].view(3, BINS)
    for line, values in zip(bins, (torch.ones_like(confidence), confidence, (guess == wanted).float()), strict=True):
        line.index_add_(0, place, values)


def losses(rows: Any) -> list[float]:
    """The mean loss a token of each example; NaN where none carries loss."""
    return [float(row[1] / row[0]) if row[0] else math.nan for row in rows]


def summarise(rows: Any) -> dict[str, float]:
    """Metrics of a whole set, each token counted alike: cross_entropy (nats), token_entropy, token_accuracy, calibration_error."""
    total = rows.sum(axis=0, dtype="float64")
    tokens = total[0]
    if not tokens:
        return {}
    counts, confidences, rights = total[3:].reshape(3, BINS)
    return {
        "cross_entropy": float(total[1] / tokens),
        "token_entropy": float(total[2] / tokens),
        "token_accuracy": float(rights.sum() / tokens),
        "calibration_error": float(binned_error(counts, confidences, rights)),
    }


def trainer_options() -> dict[str, Any]:
    """What a transformers Trainer has to be given so that its evaluations have these metrics."""
    return {"preprocess_logits_for_metrics": measure, "compute_metrics": lambda prediction: summarise(prediction.predictions)}
