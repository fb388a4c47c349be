"""Which token comes next. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainbus.serving.requests import Options


class Sampler:
    """Draws one answer's tokens; what other answers are made beside it changes nothing.

    Args:
        options: Of the answer.
        prompt: Its tokens, for the repetition penalty.
    """

    def __init__(self, options: Options, prompt: Sequence[int]) -> None:
        self._options = options
        self._seen = set(prompt) if options.repetition_penalty != 1 else None
        self.greedy = (options.temperature == 0 or options.top_k == 1) and self._seen is None
        self._random = torch.Generator()  # on the CPU, so that a seed means the same on every device
        if options.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(options.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token, from the logits of the whole vocabulary (one dimension)."""
        scores = logits.float()
        if self._seen is not None:
            scores = _penalised(scores, self._seen, self._options.repetition_penalty)
        token = int(scores.argmax()) if self._options.temperature == 0 else self._draw(scores / self._options.temperature)
        if self._seen is not None:
            self._seen.add(token)
        return token

    def _draw(self, scores: torch.Tensor) -> int:
        count = min(self._options.top_k or scores.numel(), scores.numel())
        best, tokens = scores.topk(count)  # sorted, likeliest first
        probabilities = best.softmax(-1)
        reached = probabilities.cumsum(-1)
        # The first token that reaches top_p still belongs to those that are drawn from.
        allowed = int((reached - probabilities < self._options.top_p).sum().clamp(min=1))
        point = torch.rand(1, generator=self._random).item() * float(reached[allowed - 1])
        return int(tokens[min(int((reached[:allowed] < point).sum()), allowed - 1)])


def _penalised(scores: torch.Tensor, seen: set[int], penalty: float) -> torch.Tensor:
    """Keskar and others 2019 (CTRL): seen tokens' scores are divided when positive and multiplied when negative."""
    scores = scores.clone()
    places = torch.tensor(sorted(seen), device=scores.device)
    old = scores[places]
    scores[places] = torch.where(old > 0, old / penalty, old * penalty)
    return scores
