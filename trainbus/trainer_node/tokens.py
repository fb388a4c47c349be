"""Examples become token ids and labels: the tokenizer's chat template, loss on assistant turns only, and a padding collator."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from trainbus.errors import DataError
from trainbus.trainer_node.formats import Example, Turn

IGNORED = -100
"""The label of a token without loss, as torch's cross entropy has it."""

BATCH_EXAMPLES = 1_000
"""Examples that are tokenised in one call: enough for the tokenizer's threads, little memory."""

Span = tuple[int, int]


class Report(Struct, frozen=True, kw_only=True):
    """What tokenising did. ``dropped`` examples had no token left to learn from after truncation."""

    examples: int = 0
    tokens: int = 0
    learned: int = 0
    truncated: int = 0
    dropped: int = 0
    longest: int = 0


class TokenDataset:
    """Tokenised examples in two flat arrays (5 bytes a token). ``dataset[i]`` has ``input_ids`` and ``labels`` as lists."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._learned = array("b")
        self._starts = array("q", [0])
        self.lines = array("q")
        """The line of each example in its file."""
        self._truncated = self._dropped = self._longest = 0

    def append(self, ids: Sequence[int], learned: Sequence[bool], max_length: int, line: int = 0) -> None:
        """Add one example, cut at ``max_length``; one without a token to learn from is counted and left out."""
        self._longest = max(self._longest, len(ids))
        self._truncated += len(ids) > max_length
        # The first token has no predecessor that could predict it, so its label counts for nothing.
        if not any(learned[1:max_length]):
            self._dropped += 1
            return
        self._ids.extend(ids[:max_length])
        self._learned.extend(learned[:max_length])
        self._starts.append(len(self._ids))
        self.lines.append(line)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._starts[index], self._starts[index + 1]
        ids = self._ids[start:end].tolist()
        return {"input_ids": ids, "labels": [i if told else IGNORED for i, told in zip(ids, self._learned[start:end], strict=True)]}

    def stats(self) -> Report:
        """Counts so far."""
        return Report(
            examples=len(self),
            tokens=len(self._ids),
            learned=sum(self._learned),
            truncated=self._truncated,
            dropped=self._dropped,
            longest=self._longest,
        )


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
    """Tokenise a source's examples.

    Args:
        tokenizer: A fast tokenizer of transformers.
        max_length: Longer examples are cut there, and counted.
        progress: Called with the fraction that is done.

    Raises:
        DataError: Nothing is left to learn from, or the chat template refuses a conversation (named by line).
    """
    dataset = TokenDataset()
    for start in range(0, len(examples), BATCH_EXAMPLES):
        batch = examples[start : start + BATCH_EXAMPLES]
        rendered = [_render_named(example, tokenizer, source) for example in batch]
        encoded = tokenizer(
            [text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        for example, (_, spans), ids, offsets in zip(batch, rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            dataset.append(ids, _learned(offsets, spans), max_length, example.line)
        if progress is not None:
            progress(min(1.0, (start + len(batch)) / len(examples)))
    if not len(dataset):
        report = dataset.stats()
        problem = f"{source}: none of the {len(examples)} examples has a token to learn from within max_length = {max_length}."
        raise DataError(problem, hint=f"The longest has {report.longest} tokens: raise max_length.", file=source, found=max_length)
    return dataset


def render(example: Example, tokenizer: Any) -> tuple[str, list[Span]]:
    """The text of an example and the character ranges that carry loss: assistant turns with what ends them."""
    end = tokenizer.eos_token or ""
    if not example.turns:
        text = example.text + end
        return text, [(0, len(text))]
    if not tokenizer.chat_template:
        return _plain(example.turns, end)
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]

    def apply(upto: int, *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=prompt))

    full = apply(len(messages), prompt=False)
    spans: list[Span] = []
    for index, turn in enumerate(example.turns):
        if turn.role != "assistant":
            continue
        before, after = (apply(index, prompt=True) if index else ""), apply(index + 1, prompt=False)
        if full.startswith(before) and full.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after)))
        else:
            spans.append(_located(full, turn.content, spans[-1][1] if spans else 0, end))
    return full, spans


def _render_named(example: Example, tokenizer: Any, source: str) -> tuple[str, list[Span]]:
    from jinja2 import TemplateError

    try:
        return render(example, tokenizer)
    except (TemplateError, ValueError) as error:
        problem = f"{source}, line {example.line}: the chat template of the tokenizer refuses this conversation: {error}"
        hint = "Order the turns as the model expects (often: system, then user and assistant in turns)."
        raise DataError(problem, hint=hint, file=source, line=example.line) from error


def _plain(turns: Sequence[Turn], end: str) -> tuple[str, list[Span]]:
    """Conversations for tokenizers without a chat template: ``User: ...`` and ``Assistant: ...`` on lines of their own."""
    text = ""
    spans = []
    for turn in turns:
        text += f"{turn.role.capitalize()}: "
        start = len(text)
        text += turn.content + (end if turn.role == "assistant" else "")
        if turn.role == "assistant":
            spans.append((start, len(text)))
        text += "\n"
    return text, spans


def _located(full: str, content: str, after: int, end: str) -> Span:
    """Where an assistant turn stands in a template that renders earlier turns in another way than the last (Qwen3 drops their thoughts)."""
    wanted = content.strip()
    start = full.find(wanted, after)
    if start < 0:
        raise ValueError("it changes an assistant turn, so its tokens can't be told from the others")
    stop = start + len(wanted)
    return start, stop + (len(end) if full.startswith(end, stop) else 0)


def _learned(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """For each token whether it begins within a span. Both are in text order, so one pass does."""
    learned = []
    current = 0
    for start, stop in offsets:
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        learned.append(current < len(spans) and start >= spans[current][0] and stop > start)
    return learned
