"""The data of one job: which examples are trained on, which are measured on, and what a person should know of them before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from trainbus.bus.home import home
from trainbus.trainer_node import data
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.cache import TokenCache, Tokenised, recipe_of
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.dataset.fingerprints import Fingerprints
from trainbus.trainer_node.dataset.store import Report, Selection


class Dataset(Protocol):
    """Tokenised examples, however they are kept."""

    lines: Integers
    """The line of each example in its file."""
    prints: Fingerprints

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """``input_ids`` and ``labels`` of an example."""
        ...

    def lengths(self) -> Integers:
        """Tokens of each example."""
        ...

    def stats(self) -> Report:
        """What tokenising did."""
        ...


class Ready(Struct, frozen=True, kw_only=True):
    """What a job trains on and measures on, and how many lines of its data are no examples."""

    training: Dataset
    evaluation: Dataset | None
    rejected: int


class Preparation:
    """Reads each file once, for its digest; `run` does the rest.

    Args:
        tolerant: Lines that are no examples are left out.
        root: The state directory; None for TRAINBUS_HOME.
        note: Told what a person should know.

    Raises:
        DataError: Data are missing or can't be read.
    """

    def __init__(self, config: TrainerConfig, tokenizer: Any, *, tolerant: bool, root: Path | None, note: Callable[[str], None]) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._note = note
        folder = (root or home()) / "cache" / "tokens"
        self._cache = TokenCache(folder, limit_bytes=int(config.token_cache_gb * 1e9), note=note)
        options: dict[str, Any] = {"split": config.data_split, "columns": config.columns}
        self._training = recipe_of(config.data, tokenizer, config.max_length, tolerant=tolerant, **options)
        self._evaluation = recipe_of(config.eval_file, tokenizer, config.max_length, **options) if config.eval_file else None

    def run(self, rejected: Path, progress: Callable[[float], None] | None = None) -> Ready:
        """Tokenise, or find that it was done before.

        Args:
            rejected: Where lines that are no examples are kept with their reasons, if there are any.

        Raises:
            DataError: The data can't be trained on.
        """
        found = self._cache.get(self._training, self._tokenizer, progress=progress)
        self._tell_rejected(found, rejected)
        training: Dataset = found.dataset
        evaluation: Dataset | None = None
        if self._evaluation is not None:
            evaluation = self._cache.get(self._evaluation, self._tokenizer).dataset
        elif held := data.held_out(len(found.dataset), self._config.eval_fraction, self._config.seed):
            evaluation = Selection(found.dataset, np.array(held))
            training = Selection(found.dataset, np.setdiff1d(np.arange(len(found.dataset)), held))
        self._tell(found.dataset.stats())
        return Ready(training=training, evaluation=evaluation, rejected=found.rejected)

    def _tell(self, report: Report) -> None:
        limit = self._config.max_length
        if report.truncated:
            self._note(f"{report.truncated:,} examples were cut at max_length = {limit} (the longest has {report.longest:,} tokens)")
        if report.dropped:
            self._note(f"{report.dropped:,} examples were left out: nothing to learn from within max_length = {limit}")

    def _tell_rejected(self, found: Tokenised, rejected: Path) -> None:
        first = found.first_rejected()
        if first is None:
            return
        rejected.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.rejected_file, rejected)
        what = f"{found.rejected:,} lines are no examples and were left out"
        self._note(f"{what} (the first: line {first.line}, {first.reason}); see {rejected}")
