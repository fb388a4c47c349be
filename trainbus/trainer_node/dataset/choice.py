"""Which examples of a file a job is trained on, and in what layout: kept while it is trained on, for positions count by them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np

from trainbus.bus.events import DECODE_ERRORS
from trainbus.bus.home import write_atomically
from trainbus.errors import ConfigError
from trainbus.trainer_node.dataset.encoding import Integers
from trainbus.trainer_node.dataset.overlaps import TRAINED

Layout: TypeAlias = Mapping[str, str | int | float | bool]
"""All that decides on which example stands at which position, by `NAMES`."""

NAMES: Mapping[str, str] = {
    "data": "the data", "evaluation": "the evaluation set (eval_file, eval_fraction or eval_most)",
    "tokenizer": "the tokenizer or its chat template", "reading": "columns, schema or profile",
    "max_length": "max_length", "packing": "packing", "seed": "seed", "tolerant": "bad_lines",
    "batch": "batch_size x gradient_accumulation x processes",
}  # fmt: skip
DIGESTS = ("data", "evaluation", "tokenizer", "reading", "tolerant")
"""Of these only people's words are shown, no values."""
ALONE = "file"
"""In place of a job's id, for a training of one file."""
NEVER = -1


class _Kept(NamedTuple):
    layout: dict[str, str | int | float | bool]
    indices: Integers
    anew: int


class Choice:
    """What a job is trained on.

    Args:
        output: The run's.
        job: The job's id.
        layout: What the choice and its positions follow from, beside what other jobs did.
    """

    def __init__(self, output: Path, job: str, layout: Layout) -> None:
        self._path = output / TRAINED / f"{job}.choice"
        self._layout = dict(layout)

    def read(self) -> Integers | None:
        """The choice; None when none was made, it is damaged, or it was made for another layout."""
        kept = self._read()
        return kept.indices if kept is not None and kept.layout == self._layout else None

    def changed(self) -> list[str]:
        """What is not as it was when the choice was made, in words; empty when nothing is, or nothing is known of it."""
        kept = self._read()
        if kept is None:
            return []
        before = kept.layout
        return [
            f"{name} has changed" if key in DIGESTS else f"{name} was {_shown(before[key])} and is {_shown(self._layout[key])}"
            for key, name in NAMES.items()
            if key in before and key in self._layout and before[key] != self._layout[key]
        ]

    def anew_at(self, step: int) -> bool:
        """Whether the file was begun anew behind this step of the run, so that the positions of its checkpoint mean another layout."""
        kept = self._read()
        return kept is not None and step <= kept.anew

    def write(self, indices: Integers, *, anew: int = NEVER) -> None:
        """Keep it. ``anew``: the step of the run behind which the file is begun anew.

        Raises:
            OSError: It can't be written.
        """
        content = io.BytesIO()
        np.savez(content, key=msgspec.json.encode(self._layout).decode(), indices=indices, anew=anew)
        write_atomically(self._path, content.getvalue())

    def forget(self) -> None:
        """The job is done."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> _Kept | None:
        if not self._path.exists():
            return None
        try:
            with np.load(self._path) as kept:
                layout = msgspec.json.decode(str(kept["key"]), type=dict[str, str | int | float | bool])
                return _Kept(layout, np.array(kept["indices"]), int(kept["anew"]))
        except (OSError, EOFError, KeyError, zipfile.BadZipFile, *DECODE_ERRORS):
            return None


def require_same_layout(choice: Choice, source: str, *, alone: bool) -> None:
    """Refuse to go on in the middle of a file whose positions would mean other examples.

    Raises:
        ConfigError: It names what has changed, and what to do.
    """
    if changed := choice.changed():
        problem = f"{source} was trained on to its middle, and its position counts by other settings: {'; '.join(changed)}."
        then = "some examples may then be shown twice or not at all" if alone else "the file is then shown from its beginning"
        raise ConfigError(problem, hint=f"Set that back, or go on with --unlock: {then}.", found=changed)


def _shown(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
