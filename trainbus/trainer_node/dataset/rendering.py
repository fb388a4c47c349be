"""Examples as text: the tokenizer's chat template, and which characters carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct

from trainbus.errors import DataError
from trainbus.trainer_node.formats import Example, Turn

Span = tuple[int, int]
"""Characters from, and up to but without."""
Rendered = tuple[str, list[Span]]
"""The text of an example, and what of it is learned: assistant turns with what ends them."""

_CHANGED = "it changes an assistant turn, so its tokens can't be told from the others"

MOST_SHAPES = 4_096
"""Skeletons that are remembered; a data set whose conversations have more shapes than that is rendered without them."""


class Renderer:
    """Renders many examples. Gives what `render` gives, in one call of the template for each conversation instead of two for each turn.

    For each sequence of roles the template's own text around the turns is learned once, from a conversation of marks. A conversation
    that comes out as this skeleton says has its spans where the skeleton has them; any other is rendered by `render`.

    Args:
        source: Named in errors.
    """

    def __init__(self, tokenizer: Any, source: str = "") -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._skeletons: dict[tuple[str, ...], _Skeleton | None] = {}

    def render(self, examples: Sequence[Example]) -> list[Rendered]:
        """In the same order.

        Raises:
            DataError: The chat template refuses a conversation (named by line).
        """
        return [self._one(example) for example in examples]

    def _one(self, example: Example) -> Rendered:
        from jinja2 import TemplateError

        try:
            if example.turns and self._tokenizer.chat_template and (skeleton := self._skeleton(example.turns)):
                filled = skeleton.fill([turn.content for turn in example.turns])
                if filled[0] == _apply(example.turns, self._tokenizer):
                    return filled
            return render(example, self._tokenizer)
        except (TemplateError, ValueError) as error:
            problem = f"{self._source}, line {example.line}: the chat template of the tokenizer refuses this conversation: {error}"
            hint = "Order the turns as the model expects (often: system, then user and assistant in turns)."
            raise DataError(problem, hint=hint, file=self._source, line=example.line) from error

    def _skeleton(self, turns: Sequence[Turn]) -> _Skeleton | None:
        roles = tuple(turn.role for turn in turns)
        if roles not in self._skeletons:
            if len(self._skeletons) >= MOST_SHAPES:
                return None
            marks = [f"qXw{index}Zv" for index in range(len(turns))]
            example = Example(turns=tuple(Turn(turn.role, mark) for turn, mark in zip(turns, marks, strict=True)))
            self._skeletons[roles] = _dissect(*render(example, self._tokenizer), marks)
        return self._skeletons[roles]


class _Skeleton(Struct, frozen=True):
    """The template's text around the turns of one sequence of roles. A boundary of a span: in which of the pieces, and where in it."""

    pieces: list[str]
    spans: list[tuple[tuple[int, int], tuple[int, int]]]

    def fill(self, contents: Sequence[str]) -> Rendered:
        parts = [self.pieces[0]]
        for content, piece in zip(contents, self.pieces[1:], strict=True):
            parts += (content, piece)
        begins = [0, *accumulate(map(len, parts))]
        return "".join(parts), [(begins[2 * a] + i, begins[2 * b] + j) for (a, i), (b, j) in self.spans]


def _dissect(text: str, spans: Sequence[Span], marks: Sequence[str]) -> _Skeleton | None:
    """None when the template does not show each turn's content once, in order."""
    pieces, rest = [], text
    for mark in marks:
        if text.count(mark) != 1 or mark not in rest:
            return None
        piece, _, rest = rest.partition(mark)
        pieces.append(piece)
    pieces.append(rest)
    begins = [0]
    for piece, mark in zip(pieces, marks, strict=False):
        begins.append(begins[-1] + len(piece) + len(mark))

    def located(at: int) -> tuple[int, int] | None:
        return next(((p, at - begins[p]) for p in range(len(pieces)) if begins[p] <= at <= begins[p] + len(pieces[p])), None)

    found = [(located(start), located(stop)) for start, stop in spans]
    exact = [(start, stop) for start, stop in found if start is not None and stop is not None]
    return _Skeleton(pieces, exact) if len(exact) == len(found) else None


def render(example: Example, tokenizer: Any) -> Rendered:
    """One example, whatever its template does.

    Raises:
        TemplateError, ValueError: The template refuses the conversation, or changes an assistant turn beyond recognition.
    """
    end = tokenizer.eos_token or ""
    if not example.turns:
        text = example.text + end
        return text, [(0, len(text))]
    if not tokenizer.chat_template:
        return _plain(example.turns, end)
    full = _apply(example.turns, tokenizer)
    spans: list[Span] = []
    passed = 0
    for index, turn in enumerate(example.turns):
        if turn.role != "assistant":
            passed = _after(full, turn.content, passed)
            continue
        before = _apply(example.turns[:index], tokenizer, prompt=True) if index else ""
        after = _apply(example.turns[: index + 1], tokenizer)
        opened = full.startswith(before)
        if opened and full.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after)))
        else:
            spans.append(_located(full, turn.content, max(passed, len(before) if opened else 0), end))
        if spans[-1][0] < passed:  # the turn before was taken for something in this one
            raise ValueError(_CHANGED)
        passed = spans[-1][1]
    return full, spans


def _after(full: str, content: str, passed: int) -> int:
    """Where a turn that is not learned ends: an answer may be a word that its question holds, too."""
    found = full.find(content.strip(), passed)
    return passed if found < 0 else found + len(content.strip())


def _apply(turns: Sequence[Turn], tokenizer: Any, *, prompt: bool = False) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _plain(turns: Sequence[Turn], end: str) -> Rendered:
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


def _located(full: str, content: str, passed: int, end: str) -> Span:
    """Where an assistant turn stands in a template that renders earlier turns in another way than the last (Qwen3 drops their thoughts)."""
    wanted = content if full.startswith(content, passed) else content.strip()
    start = full.find(wanted, passed)
    if start < 0:
        raise ValueError(_CHANGED)
    stop = start + len(wanted)
    return start, stop + (len(end) if full.startswith(end, stop) else 0)
