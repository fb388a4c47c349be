"""Under which path and name a server knows a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from trainbus.plugins.inference.pending import Waiting


def mapped(path: str, prefixes: Mapping[str, str]) -> str:
    """The path on the server's side: the longest prefix that fits (whole parts of the path) is replaced."""
    here = PurePosixPath(path)
    for prefix in sorted(prefixes, key=lambda prefix: -len(PurePosixPath(prefix).parts)):
        if here.is_relative_to(prefix):
            return str(PurePosixPath(prefixes[prefix]) / here.relative_to(prefix))
    return path


def model_name(template: str, entry: Waiting, path: str) -> str:
    """Fill in a checkpoint's name; ``path`` is the one on the server's side."""
    name = path.rstrip("/").rpartition("/")[2]
    return template.format(path=path, name=name, id=entry.id, run=entry.run, step=entry.step)
