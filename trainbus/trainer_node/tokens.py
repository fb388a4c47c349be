"""Examples in memory as token ids and labels, and a padding collator."""

from __future__ import annotations

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
    """Pads a batch to its longest example; padding has attention 0 and no loss."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
        """Tensors ``input_ids``, ``attention_mask`` and ``labels``, each (rows, longest)."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int) -> torch.Tensor:
            return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": padded("input_ids", self._pad), "attention_mask": mask, "labels": padded("labels", IGNORED)}


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
