"""A model on this machine. Imports torch and transformers: load only where it is asked."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from trainbus.errors import ModelError, TrainbusError
from trainbus.inferring.asking import Answer, OnPiece, Prompt, Sampling, ignore
from trainbus.serving.generation import Generator
from trainbus.serving.loading import load, reason
from trainbus.serving.requests import Options, Piece
from trainbus.serving.work import Ticket

AT_ONCE = 256
"""Questions that wait in the generator's line; it puts as many as fit into a batch."""
NEEDED_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")


class LocalModel:
    """A loaded model. Close it, or use it in a ``with`` block. See `trainbus.inferring.asking.Asked`."""

    def __init__(self, name: str, generator: Generator, checkpoint: str = "") -> None:
        self.name = name
        self.checkpoint = checkpoint
        self._generator = generator

    @classmethod
    def load(cls, name: str, place: str, *, device: str = "auto", dtype: str = "auto", base: str = "", checkpoint: str = "") -> LocalModel:
        """Load a folder, or a model of the hub, which is fetched when it isn't here.

        Args:
            name: What it is called.
            place: The folder of a model or an adapter, or ``OWNER/NAME``.
            device: See `trainbus.serving.loading.load`; so is ``dtype``.
            base: The folder of an adapter's base; empty for the one that the adapter names.
            checkpoint: The id of the checkpoint that it is.

        Raises:
            ModelError: It can't be had or loaded.
        """
        folder = place if Path(place).is_dir() else _fetched(place)
        loaded = load(folder, base=base or None, device=device, dtype=dtype)
        return cls(name, Generator(loaded.model, loaded.tokenizer, adapter=loaded.adapter), checkpoint)

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the model go."""
        self._generator.close()

    def ask(self, prompt: Prompt, sampling: Sampling, on_piece: OnPiece = ignore) -> Answer:
        """One answer."""
        begun, first, pieces = time.monotonic(), None, []
        for piece in self._generator.iterate(prompt, _options(sampling)):
            pieces.append(piece)
            if piece.text:
                first = time.monotonic() - begun if first is None else first
                on_piece(piece.text)
        return _answer(pieces, time.monotonic() - begun, first)

    def ask_all(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """In batches that answers join and leave. Who stops listening, or interrupts it, ends those that are made."""
        told: queue.SimpleQueue[tuple[int, Piece | TrainbusError]] = queue.SimpleQueue()
        begun = [0.0] * len(prompts)
        pieces: list[list[Piece]] = [[] for _ in prompts]
        tickets: list[Ticket] = []
        options, done = _options(sampling), 0
        try:
            while done < len(prompts):
                while len(tickets) < min(len(prompts), done + AT_ONCE):
                    at = len(tickets)
                    begun[at] = time.monotonic()
                    tickets.append(self._generator.submit(prompts[at], options, listener=partial(_tell, told, at)))
                at, piece = told.get()
                if isinstance(piece, TrainbusError):
                    raise piece
                pieces[at].append(piece)
                if piece.finish_reason:
                    done += 1
                    yield at, _answer(pieces[at], time.monotonic() - begun[at], None)
        finally:
            for ticket in tickets:
                ticket.cancel()


def _tell(told: queue.SimpleQueue[tuple[int, Piece | TrainbusError]], at: int, piece: Piece | TrainbusError) -> None:
    told.put((at, piece))


def _options(sampling: Sampling) -> Options:
    return Options(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        top_k=sampling.top_k or 0,
        repetition_penalty=1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty,
        seed=sampling.seed,
        stop=sampling.stop,
    )


def _answer(pieces: Sequence[Piece], seconds: float, first: float | None) -> Answer:
    return Answer(
        text="".join(piece.text for piece in pieces),
        finish_reason=pieces[-1].finish_reason,
        prompt_tokens=pieces[-1].prompt_tokens,
        completion_tokens=pieces[-1].completion_tokens,
        seconds=seconds,
        first_seconds=first,
    )


def _fetched(name: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=list(NEEDED_FILES)))
    except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
        problem = f"There is no folder {name}, and the hub does not give a model of that name: {reason(error)}"
        hint = "Check the name and the network (and HF_TOKEN for gated models), or name a folder."
        raise ModelError(problem, hint=hint, file=name) from error
