"""Answers questions with a base model or one of its checkpoints. Imports torch, transformers and peft: load only where it serves."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from msgspec import Struct

from trainbus.errors import ModelError
from trainbus.trainer_node.model import missing_parts

BASE = "base"
KEPT_ADAPTERS = 4
"""Adapters stay loaded, the least recently used ones go: a demonstration compares the last few checkpoints."""

DEFAULT_TOKENS = 64


class Answer(Struct, frozen=True):
    """A generated text. ``finish_reason`` is ``length`` when the limit cut it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class EngineStats(Struct, frozen=True, kw_only=True):
    """What was done so far."""

    answers: int
    loads: int
    loaded: int


class Engine:
    """Not thread-safe: one thread asks.

    Args:
        base: Directory of the base model.
        roots: Checkpoints may only come from below these.
        threads: CPU threads of torch.

    Raises:
        ModelError: The base is no model.
    """

    def __init__(self, base: Path, roots: Sequence[Path], *, threads: int = 1) -> None:
        if missing := missing_parts(base):
            raise ModelError(f"{base} is not a model: {'; '.join(missing)}.", hint="Give the directory of a base model.", file=str(base))
        torch.set_num_threads(threads)
        self._roots = [root.resolve() for root in roots]
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
        self._base: Any = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
        self._peft: Any = None
        self._adapters: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._whole: tuple[str, Any] | None = None
        self._answers = self._loads = 0

    def names(self) -> list[str]:
        """What can be asked without loading."""
        return [BASE, *(path for path, _ in self._adapters), *([self._whole[0]] if self._whole else [])]

    def stats(self) -> EngineStats:
        """Counts so far."""
        return EngineStats(answers=self._answers, loads=self._loads, loaded=len(self.names()))

    def answer(
        self, model: str, messages: list[Mapping[str, str]], *, limit: int | None = None, temperature: float = 0.0, seed: int | None = None
    ) -> Answer:
        """Answer a conversation; the same question to the same weights gives the same answer at temperature 0.

        Raises:
            ModelError: ``model`` is not the base, not allowed, or can't be loaded.
        """
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        limit = limit or DEFAULT_TOKENS
        with self._chosen(model) as chosen, torch.inference_mode():
            if seed is not None:
                torch.manual_seed(seed)
            output = chosen.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_id=self._tokenizer.eos_token_id,
                **sampling,
            )
        made = output[0, ids.shape[1] :].tolist()
        ended = bool(made) and made[-1] == self._tokenizer.eos_token_id
        self._answers += 1
        return Answer(self._tokenizer.decode(made, skip_special_tokens=True), ids.shape[1], len(made), "stop" if ended else "length")

    @contextmanager
    def _chosen(self, name: str) -> Iterator[Any]:
        if name in ("", BASE):
            with self._peft.disable_adapter() if self._peft is not None else nullcontext():
                yield self._peft if self._peft is not None else self._base
            return
        path = self._allowed(name)
        if (path / "adapter_config.json").is_file():
            self._adapt(path)
            yield self._peft
        else:
            yield self._loaded(path)

    def _allowed(self, name: str) -> Path:
        path = Path(name).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ModelError(
                f"{name} is neither `{BASE}` nor below an allowed directory.", hint="Start the server with --allow.", file=name
            )
        if not path.is_dir():
            raise ModelError(f"There is no checkpoint {name}.", hint="It may have been deleted.", file=name)
        return path

    def _adapt(self, path: Path) -> None:
        """Make a checkpoint's adapters the active ones, loading them when they are not among the kept."""
        from peft import PeftModel

        # With its time, because a resumed training may write the same checkpoint again.
        key = (str(path), (path / "adapter_config.json").stat().st_mtime_ns)
        if key not in self._adapters:
            # PEFT's adapter names become module names, which must not hold dots or slashes.
            adapter = "a" + hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
            try:
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(self._base, path, adapter_name=adapter).eval()
                else:
                    self._peft.load_adapter(path, adapter_name=adapter)
            except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
                raise ModelError(
                    f"The adapters in {path} can't be loaded: {error}", hint="Were they trained on this base?", file=str(path)
                ) from error
            self._adapters[key] = adapter
            self._loads += 1
        self._adapters.move_to_end(key)
        self._peft.set_adapter(self._adapters[key])
        while len(self._adapters) > KEPT_ADAPTERS:
            _, oldest = self._adapters.popitem(last=False)
            self._peft.delete_adapter(oldest)

    def _loaded(self, path: Path) -> Any:
        """A checkpoint of all weights; one is kept."""
        if self._whole is None or self._whole[0] != str(path):
            if missing := missing_parts(path):
                raise ModelError(f"{path} is not a checkpoint: {'; '.join(missing)}.", hint="Ask for a complete one.", file=str(path))
            try:
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
            except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
                raise ModelError(f"The model in {path} can't be loaded: {error}", hint="Ask for a complete one.", file=str(path)) from error
            self._whole = (str(path), model)
            self._loads += 1
        return self._whole[1]
