"""The data of one job: which examples are trained on, which are measured on, and what a person should know of them before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from trainbus.bus.home import home
from trainbus.errors import DataError
from trainbus.trainer_node import data
from trainbus.trainer_node.config import Policy, TrainerConfig
from trainbus.trainer_node.dataset.cache import CacheStats, TokenCache, Tokenised, recipe_of
from trainbus.trainer_node.dataset.choice import ALONE, NEVER, Choice, Layout, require_same_layout
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.dataset.fingerprints import Fingerprinted
from trainbus.trainer_node.dataset.overlaps import Overlap, remember, repeated, seen_before, shared
from trainbus.trainer_node.dataset.packing import Packed
from trainbus.trainer_node.dataset.reading import reading_of
from trainbus.trainer_node.dataset.statistics import PLAIN_TEXT, lengths, require_masked, require_whole
from trainbus.trainer_node.dataset.store import Report, Selection, TokenDataset


class Dataset(Fingerprinted, Protocol):
    """Tokenised examples, however they are kept."""

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
    """What a job trains on and measures on, and how many lines of its data are no examples. ``chosen``: before they were packed.

    ``plain``: the data are plain text, all of which is learned. ``afresh``: what was shown of them before does not count.
    """

    training: Dataset
    chosen: Dataset
    evaluation: Dataset | None
    rejected: int
    plain: bool
    afresh: bool


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
        self.tokenizer = tokenizer
        self._note = note
        folder = (root or home()) / "cache" / "tokens"
        self._cache = TokenCache(folder, limit_bytes=int(config.token_cache_gb * 1e9), note=note)
        reading = reading_of(config)
        self._training = recipe_of(config.data, tokenizer, config.max_length, tolerant=tolerant, reading=reading)
        self._evaluation = recipe_of(config.eval_file, tokenizer, config.max_length, reading=reading) if config.eval_file else None

    def run(
        self,
        output: Path,
        rejected: Path | None,
        *,
        job: str = "",
        step: int | None = None,
        unlock: bool = False,
        batch: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> Ready:
        """Tokenise, or find that it was done before, and look for examples that are there twice.

        Args:
            output: The run's; it knows what earlier jobs were trained on.
            rejected: Where lines that are no examples are kept with their reasons, if there are any; None: another process keeps them.
            job: Of a continuous training. Its choice of examples is kept in the output until `finish`: it must stay the same when
                the job goes on, whatever other jobs have done meanwhile.
            step: Of the checkpoint that is gone on from, whose position in these data counts; None when none of them was shown before.
            unlock: Go on also when they are laid out otherwise than then.
            batch: Examples of an optimizer step, where positions count steps.

        Raises:
            DataError: The data can't be trained on.
            ConfigError: They are laid out otherwise than when they were begun.
        """
        found = self._cache.get(self._training, self.tokenizer, progress=progress)
        self._tell_rejected(found, rejected)
        evaluation: Dataset | None = None
        training: Dataset
        chosen = np.arange(len(found.dataset))
        if self._evaluation is not None:
            evaluation = self._cache.get(self._evaluation, self.tokenizer).dataset
        elif held := data.held_out(len(found.dataset), self._config.eval_fraction, self._config.seed, self._config.eval_most):
            evaluation = Selection(found.dataset, np.array(held))
            chosen = np.setdiff1d(chosen, held)
        require_masked(found.dataset, self._config.data, found.format)
        if self._config.too_long == "refuse":
            require_whole(found.dataset, self._config.data, self._config.max_length)
        for line in lengths(found.dataset, self._config.max_length, row_format=found.format).advice:
            self._note(line)
        choice = Choice(output, job or ALONE, self._layout(batch))
        changed = choice.changed() if step is not None else []
        if changed and not unlock:
            require_same_layout(choice, self._config.data, alone=not job)
        if changed and job:
            self._note(f"{'; '.join(changed)}: the file is shown from its beginning")
        known = choice.read() if job or step is not None else None  # a training of one file that begins anew chooses anew
        if known is None:
            chosen = self._screened(Selection(found.dataset, chosen), evaluation, output, job)
            choice.write(chosen, anew=step if changed and job and step is not None else NEVER)
        else:
            chosen = known
        examples = found.dataset if len(chosen) == len(found.dataset) else Selection(found.dataset, chosen)
        training = self._packed(examples) if self._config.packing else examples
        afresh = bool(job) and step is not None and choice.anew_at(step)
        plain = found.format == PLAIN_TEXT
        return Ready(training=training, chosen=examples, evaluation=evaluation, rejected=found.rejected, plain=plain, afresh=afresh)

    def stats(self) -> CacheStats:
        """What was tokenised, and what was found to be there."""
        return self._cache.stats()

    def _layout(self, batch: int) -> Layout:
        config, recipe = self._config, self._training
        held = f"{config.eval_fraction} {config.eval_most}" if config.eval_fraction else ""
        return {
            "data": recipe.content, "evaluation": self._evaluation.key if self._evaluation else held, "tokenizer": recipe.tokenizer,
            "reading": str(recipe.reading.parts), "max_length": config.max_length, "packing": config.packing, "seed": config.seed,
            "tolerant": recipe.tolerant, "batch": batch,
        }  # fmt: skip

    def _packed(self, examples: TokenDataset | Selection) -> Packed:
        size = self._config.max_length
        packed = Packed(examples, size)
        full = float(packed.lengths().mean()) / size
        self._note(f"{len(examples):,} examples are packed into {len(packed):,} rows of at most {size:,} tokens, {full:.0%} full")
        return packed

    def _screened(self, training: Selection, evaluation: Dataset | None, output: Path, job: str) -> Integers:
        """Indices of the examples that stay."""
        config = self._config
        out: set[int] = set()
        if evaluation is not None:
            leaks = shared(training, evaluation, Path(config.eval_file).name)
            out |= self._apply(config.leaks, leaks, len(training), "are in the evaluation set, too", "leaks")
        within = repeated(training)
        out |= self._apply(config.duplicates, within, len(training), "repeat an earlier line", "duplicates")
        if job:
            before = seen_before(output, training, but=job)
            out |= self._apply(config.duplicates, before, len(training), "were trained on in an earlier file", "duplicates")
        if len(out) == len(training):
            self._note("nothing would be left to train on, so nothing is skipped")
            return training.indices
        return np.delete(training.indices, sorted(out))

    def _apply(self, policy: Policy, overlap: Overlap, examples: int, what: str, key: str) -> set[int]:
        """Indices to leave out."""
        if not len(overlap):
            return set()
        text = f"{len(overlap):,} of {examples:,} examples {what} (the first: {overlap.matches[0]})"
        if policy == "refuse":
            hint = f"Remove them (`trainbus data check` names them), or set trainer.{key} to skip or warn."
            lines = [match.line for match in overlap.matches]
            problem = f"{self._config.data}: {text}."
            raise DataError(problem, hint=hint, file=self._config.data, line=lines[0], lines=lines, key=f"trainer.{key}")
        self._note(f"{text}; {'they are skipped' if policy == 'skip' else 'they are trained on'}")
        return set(overlap.indices) if policy == "skip" else set()

    def _tell_rejected(self, found: Tokenised, rejected: Path | None) -> None:
        first = found.first_rejected()
        if first is None or rejected is None:
            return
        rejected.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.rejected_file, rejected)
        what = f"{found.rejected:,} lines are no examples and were left out"
        self._note(f"{what} (the first: line {first.line}, {first.reason}); see {rejected}")


def finish(output: Path, job: str, source: str, training: Dataset) -> None:
    """A job of a continuous training is done: remember what its weights have seen. What can't be written is not worth a failure."""
    with suppress(OSError):
        remember(output, job, Path(source).name, training)
        Choice(output, job, {}).forget()
