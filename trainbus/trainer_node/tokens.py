"""Examples in memory as token ids and labels, and a padding collator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainbus.errors import DataError
from trainbus.trainer_node.dataset.rendering import render
from trainbus.trainer_node.dataset.store import IGNORED, Memory, Report, TokenDataset, Writer
from trainbus.trainer_node.dataset.tokenising import tokenise_into
from trainbus.trainer_node.formats import Example

__all__ = ["IGNORED", "Collator", "Report", "TokenDataset", "nothing_to_learn", "render", "tokenize"]

TOLD_EXAMPLES = 1_000
"""Progress is told after so many."""


class Collator:
    """Pads a batch to its longest row; padding has no loss. Rows with positions are packs: there padding is one more example, which
    nothing else sees, and no attention mask is given (see `trainbus.trainer_node.dataset.packing`).

    Args:
        pad: The token of padding.
        saw: Told of each batch how many tokens carry loss, and how many there are without padding.
        packs: Gets the number of examples in each batch of packs, in the order in which they are asked for.
    """

    def __init__(self, pad: int, saw: Callable[[int, int], None] | None = None, packs: deque[int] | None = None) -> None:
        self._pad = pad
        self._saw = saw
        self._packs = packs

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
        """Tensors ``input_ids``, ``labels``, and ``attention_mask`` or ``position_ids``, each (rows, longest)."""
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)

        def padded(name: str, value: int) -> torch.Tensor:
            return torch.tensor([row[name] + [value] * (longest - length) for row, length in zip(rows, lengths, strict=True)])

        batch = {"input_ids": padded("input_ids", self._pad), "labels": padded("labels", IGNORED)}
        if self._saw is not None:
            self._saw(int((batch["labels"] != IGNORED).sum()), sum(lengths))
        if "position_ids" in rows[0]:
            if self._packs is not None:
                self._packs.append(sum(row["position_ids"].count(0) for row in rows))
            positions = [[*row["position_ids"], *range(longest - length)] for row, length in zip(rows, lengths, strict=True)]
            return batch | {"position_ids": torch.tensor(positions)}
        return batch | {"attention_mask": torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])}


def tokenize(
    examples: Sequence[Example], tokenizer: Any, max_length: int, *, source: str = "", progress: Callable[[float], None] | None = None
) -> TokenDataset:
    """Tokenise examples into memory.

    Args:
        tokenizer: A fast tokenizer of transformers.
        max_length: Longer examples are cut there, and counted.
        progress: Called with the fraction that is done.

    Raises:
        DataError: Nothing is left to learn from, or the chat template refuses a conversation (named by line).
    """

    def told() -> Iterator[Example]:
        for number, example in enumerate(examples, 1):
            yield example
            if progress is not None and (number % TOLD_EXAMPLES == 0 or number == len(examples)):
                progress(number / len(examples))

    memory = Memory()
    writer = Writer(memory.open, len(tokenizer), max_length)
    tokenise_into(writer, told(), tokenizer, source=source)
    if not writer.report().examples:
        raise nothing_to_learn(writer.report(), source, max_length)
    return memory.dataset(writer)


def nothing_to_learn(report: Report, source: str, max_length: int) -> DataError:
    """The error for data of which nothing is left."""
    problem = f"{source}: none of the {report.dropped} examples has a token to learn from within max_length = {max_length}."
    return DataError(problem, hint=f"The longest has {report.longest} tokens: raise max_length.", file=source, found=max_length)
