"""Rows that a model continues together over one key-value cache; rows join and leave while others go on. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from trainbus.errors import ModelError

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Layers whose cache is keys and values for each position: rows of such caches can be put together and taken apart."""


class Batch:
    """Not thread-safe. Rows are padded on the left, so that all of them end at the same place.

    Args:
        model: A causal language model of transformers, in evaluation mode.

    Raises:
        ModelError: It keeps no key-value cache.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        if "past_key_values" not in accepted:
            raise ModelError(f"{type(model).__name__} keeps no key-value cache.", hint="Serve a causal language model with attention.")
        self._takes_positions = "position_ids" in accepted
        self._keeps_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.plain = PLAIN_LAYERS.issuperset(getattr(model.config.get_text_config(), "layer_types", None) or ())
        self._cache: Any = None
        self._mask = torch.empty(0)
        self._next = torch.empty(0)

    @property
    def size(self) -> int:
        """How many rows there are."""
        return 0 if self._cache is None else int(self._mask.shape[0])

    @property
    def room(self) -> bool:
        """Whether rows may join now; where the cache can't be put together, only while there are none."""
        return self.plain or self._cache is None

    def join(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read new rows' prompts, and put them behind the rows that there are.

        Args:
            prompts: Token ids; none empty.

        Returns:
            The logits of each new row's next token.
        """
        ids, mask = padded(prompts, self._model.device)
        # Without a configuration every layer keeps all positions, sliding ones, too: then rows can be put together.
        joining: Any = DynamicCache() if self.plain else DynamicCache(config=self._model.config)
        logits = self._forward(ids, mask, positions(mask), joining)
        following = mask.sum(1, keepdim=True)
        if self._cache is None:
            self._cache, self._mask, self._next = joining, mask, following
            return logits
        width = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([pad(one, (width - one.shape[1], 0)) for one in (self._mask, mask)])
        self._next = torch.cat([self._next, following])
        for layer, other in zip(self._cache.layers, joining.layers, strict=True):
            layer.keys = _stacked(layer.keys, other.keys, width)
            layer.values = _stacked(layer.values, other.values, width)
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Give each row its next token; returns the logits of the tokens after those."""
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = pad(self._mask, (0, 1), value=1)
        logits = self._forward(ids, self._mask, self._next, self._cache)
        self._next = self._next + 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows but these go."""
        if len(rows) == self.size:
            return
        if not rows:
            self._cache = None
            return
        chosen = torch.tensor(rows, device=self._mask.device)
        self._mask, self._next = self._mask[chosen], self._next[chosen]
        spare = int(self._mask.argmax(1).min())  # columns that only rows that are gone had used
        self._mask = self._mask[:, spare:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[chosen, :, spare:], layer.values[chosen, :, spare:]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: Any) -> torch.Tensor:
        more = {"position_ids": places} if self._takes_positions else {}
        output = self._model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more, **self._keeps_last)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's place in its own row; padding stands at 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _stacked(one: torch.Tensor, other: torch.Tensor, width: int) -> torch.Tensor:
    return torch.cat([pad(each, (0, 0, width - each.shape[2], 0)) for each in (one, other)])
