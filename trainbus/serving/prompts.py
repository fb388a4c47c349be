"""Prompts and answers as token ids."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainbus.errors import RefusedError
from trainbus.serving.loading import reason
from trainbus.serving.requests import Prompt

TEMPLATE_FILE = "chat_template.jinja"


class Prompts:
    """Thread-safe: a tokenizer's own state is not.

    Args:
        tokenizer: Of the base model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def text(self, messages: Sequence[Mapping[str, Any]], *, template: str | None = None, open_answer: bool = True) -> str:
        """A conversation through the chat template, ready for the assistant's answer unless told otherwise.

        Args:
            messages: Each with ``role`` and ``content``.
            template: In place of the tokenizer's own.
            open_answer: End with what opens the assistant's turn.

        Raises:
            RefusedError: There is no template, or it refuses these messages (``facts["code"]``: ``template``).
        """
        if template is None and not self._tokenizer.chat_template:
            raise RefusedError("The model has no chat template.", hint="Ask it to complete a text instead.", code="template")
        try:
            with self._lock:
                made = self._tokenizer.apply_chat_template(
                    list(messages), chat_template=template, tokenize=False, add_generation_prompt=open_answer
                )
        except Exception as error:  # templates raise what they like
            raise RefusedError(
                f"The chat template refuses these messages: {reason(error)}", hint="Look at roles and their order.", code="template"
            ) from error
        return str(made)

    def ids(self, prompt: Prompt, *, template: str | None = None) -> list[int]:
        """A prompt's token ids.

        Raises:
            RefusedError: It is empty, or can't be put through the template.
        """
        if isinstance(prompt, str):
            found = self.encode(prompt, special=True)
        elif prompt and isinstance(prompt[0], Mapping):
            # The template has written the special tokens already.
            found = self.encode(self.text(prompt, template=template), special=False)  # type: ignore[arg-type]
        else:
            found = [int(token) for token in prompt]  # type: ignore[arg-type]
            vocabulary = len(self._tokenizer)
            if wrong := [token for token in found if not 0 <= token < vocabulary]:
                raise RefusedError(
                    f"There is no token {wrong[0]}.", hint=f"Tokens are numbered from 0 to {vocabulary - 1}.", code="invalid"
                )
        if not found:
            raise RefusedError("The prompt is empty.", hint="Ask something.", code="invalid")
        return found

    def answer_ids(self, prompt: Prompt, answer: str, *, template: str | None = None, end: bool = True) -> list[int]:
        """The token ids of a given answer to a prompt; with ``end``, what ends the assistant's turn or the text belongs to them."""
        if isinstance(prompt, str) or not (prompt and isinstance(prompt[0], Mapping)) or not end:
            ids = self.encode(answer, special=False)
            return [*ids, self._tokenizer.eos_token_id] if end and self._tokenizer.eos_token_id is not None else ids
        messages: list[Mapping[str, Any]] = [*prompt]
        before = self.text(messages, template=template)
        whole = self.text([*messages, {"role": "assistant", "content": answer}], template=template, open_answer=False)
        if not whole.startswith(before):  # a template that writes history in another way than it opens an answer
            return [*self.encode(answer, special=False), self._tokenizer.eos_token_id]
        return self.encode(whole[len(before) :].rstrip("\n"), special=False)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Text to token ids; with ``special``, with what the tokenizer puts at the beginning."""
        with self._lock:
            return list(self._tokenizer(_sound(text), add_special_tokens=special)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def name(self, token: int) -> str:
        """One token as text; special ones by their names."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def ends(self, generation_config: Any) -> frozenset[int]:
        """The tokens that end an answer."""
        told = getattr(generation_config, "eos_token_id", None)
        several = told if isinstance(told, list) else [told]
        return frozenset(token for token in (self._tokenizer.eos_token_id, *several) if token is not None)


def template_in(folder: Path) -> str | None:
    """The chat template that an adapter brings along, if any."""
    try:
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    except OSError:
        return None


def _sound(text: str) -> str:
    """Lone surrogates, which JSON can carry and UTF-8 can't, become replacement characters."""
    return text.encode("utf-8", errors="replace").decode("utf-8") if any("\ud800" <= one <= "\udfff" for one in text) else text
