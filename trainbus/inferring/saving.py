"""Copies a model to a new folder, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainbus.bus.events import MARKER
from trainbus.errors import ModelError
from trainbus.plugins.retention.copying import copy_file, sync_directory
from trainbus.plugins.retention.merging import merge_adapter
from trainbus.plugins.retention.thinning import is_disposable
from trainbus.plugins.retention.verify import files_of, verify

OF_TRAINING = (MARKER, "trainer_state.json", "training_args.bin")
"""What belongs to the training and not to the model."""


def save(source: Path, place: Path, *, merge: bool = False) -> None:
    """Copy a model without what is for resuming only; merge an adapter into its base on the way.

    Raises:
        ModelError: The source is not whole, or the place is taken; nothing is left there then.
        OSError: The disk failed, likewise.
    """
    if place.exists():
        raise ModelError(f"{place} exists already.", hint="Name a new folder.", file=str(place))
    found = verify(source)
    if found.faults:
        raise ModelError(f"{source} is not whole: {'; '.join(found.faults[:3])}.", hint="Choose another checkpoint.", file=str(source))
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        if merge:
            merge_adapter(source, partial)
        else:
            for relative in files_of(source):
                if relative not in OF_TRAINING and not is_disposable(relative):
                    copy_file(source / relative, partial / relative)
        sync_directory(partial)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
