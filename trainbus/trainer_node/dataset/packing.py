"""Several examples in one row, so that less of a batch is padding; none of them sees another.

Positions begin at 0 with each example, and no attention mask is given: from that, transformers' mask functions (eager, sdpa,
flex_attention) and its flash attention know where examples end. Models that do without these would let examples see each other, so
`require_isolation` asks the model itself.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from trainbus.errors import ConfigError, ModelError
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.dataset.store import IGNORED, Report, Selection, TokenDataset

ONE_ROW = "flash_attention"
"""Implementations whose names begin so know packed examples in batches of one row only."""
PROBE_TOKENS = 12
PROBE_TOLERANCE = 1e-5
"""Of the largest logit: two runs over the same shapes with the same dropout differ by nothing, or by the order of a sum."""


class Packed:
    """A dataset whose items are packs. Each example is in one pack, whole; a pack has at most ``size`` tokens.

    Which ones go together follows from their lengths alone, so it is the same at each start. An item has ``input_ids``, ``labels`` and
    ``position_ids`` as lists.

    Args:
        dataset: Examples of at most ``size`` tokens.
    """

    def __init__(self, dataset: TokenDataset | Selection, size: int) -> None:
        self._dataset = dataset
        bins = best_fit(dataset.lengths(), size)
        self._order = np.argsort(bins, kind="stable")
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(bins))))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
        for member in self.members(index):
            example = self._dataset[int(member)]
            row["input_ids"] += example["input_ids"]
            row["labels"] += [IGNORED, *example["labels"][1:]]  # or the last token of the example before would have to predict it
            row["position_ids"] += range(len(example["input_ids"]))
        return row

    @property
    def lines(self) -> Integers:
        """The line of each example (not pack) in its file."""
        return self._dataset.lines

    def prints(self, column: int) -> Integers:
        """One column of the examples' fingerprints."""
        return self._dataset.prints(column)

    def members(self, index: int) -> Integers:
        """Indices of a pack's examples."""
        return self._order[self._starts[index] : self._starts[index + 1]]

    def lengths(self) -> Integers:
        """Tokens of each pack."""
        return np.add.reduceat(self._dataset.lengths()[self._order], self._starts[:-1])

    def stats(self) -> Report:
        """What tokenising did; examples are counted, not packs."""
        return self._dataset.stats()


def best_fit(lengths: Integers, size: int) -> Integers:
    """The bin of each length: the longest first, each into the fullest bin that has room for it (best fit decreasing)."""
    bins = np.zeros(len(lengths), np.int64)
    open_bins: dict[int, array[int]] = {}  # by room
    rooms = 0  # bit r: there is a bin with room r
    count = 0
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                rooms ^= 1 << room
        else:
            room, chosen, count = size, count, count + 1
        bins[index] = chosen
        left = room - length
        if left > 0:
            open_bins.setdefault(left, array("q")).append(chosen)
            rooms |= 1 << left
    return bins


def require_isolation(model: Any, batch_size: int) -> None:
    """Show the model two packs that differ in their first example only: what it says of the second must not differ.

    Raises:
        ConfigError: The attention implementation knows packs in batches of one row only.
        ModelError: The second example saw the first, or the model takes no positions.
    """
    import torch

    implementation = str(getattr(model.config, "_attn_implementation", ""))
    if implementation.startswith(ONE_ROW) and batch_size != 1:
        hint = "Set batch_size = 1 (a pack fills max_length by itself) and raise gradient_accumulation."
        problem = f"With {implementation} packed examples stay apart in batches of one row only, and batch_size = {batch_size}."
        raise ConfigError(problem, hint=hint, key="trainer.batch_size", found=batch_size, allowed=1)
    embeddings = model.get_input_embeddings()
    rng = torch.Generator().manual_seed(0)
    first, other, second = torch.randint(0, embeddings.num_embeddings, (3, PROBE_TOKENS), generator=rng)
    positions = torch.arange(PROBE_TOKENS).repeat(2)[None].to(embeddings.weight.device)

    def answer(before: Any) -> Any:
        torch.manual_seed(0)  # where there is dropout it must fall alike
        ids = torch.cat([before, second])[None].to(embeddings.weight.device)
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, PROBE_TOKENS:].float()

    try:
        with torch.no_grad(), torch.random.fork_rng():
            one, two = answer(first), answer(other)
    except (TypeError, ValueError) as error:
        raise _no_packing(implementation, f"it does not take positions ({str(error).splitlines()[0]})") from error
    difference = float((one - two).abs().max())
    if not difference <= PROBE_TOLERANCE * float(one.abs().max()):
        raise _no_packing(implementation, f"an example changes the logits of the next one by {difference:.2g}")


def _no_packing(implementation: str, why: str) -> ModelError:
    problem = f"This model (attention: {implementation or 'its own'}) can't keep packed examples apart: {why}."
    return ModelError(problem, hint="Set packing = false.", key="trainer.packing")
