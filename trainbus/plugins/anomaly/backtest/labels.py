"""Labels beside the logs: a JSON file that says, for each log, where something was wrong.

``{"runs": [{"file": "a.csv", "repo": "x/y", "labels": [{"kind": "nan", "start_step": 20, "end_step": 30, "confidence": "high"}]}]}``;
``repo`` (or ``group``) is what cross-validation leaves out together. A text in place of the list ("healthy") is no label.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import DataError
from trainbus.plugins.anomaly.backtest.scoring import Label, LabelledRun

NAMES = ("labels.json", "manifest.json")


def beside(paths: list[Path]) -> Path | None:
    """The labels that lie in the folder of the first log."""
    if not paths:
        return None
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_labels(path: Path) -> dict[str, LabelledRun]:
    """Labels by the name of the log.

    Raises:
        DataError: The file says something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *DECODE_ERRORS) as error:
        raise DataError(f"{path} can't be read as labels: {error}.", hint=_HINT, file=str(path)) from error
    runs = content.get("runs") if isinstance(content, dict) else content
    if not isinstance(runs, list) or not all(isinstance(run, dict) and isinstance(run.get("file"), str) for run in runs):
        raise DataError(f"{path} has no list of runs with their files.", hint=_HINT, file=str(path), key="runs")
    return {Path(run["file"]).name: _run(run, path) for run in runs}


_HINT = (
    'It must look like {"runs": [{"file": "a.csv", "labels": [{"kind": "nan", "start_step": 1, "end_step": 9, "confidence": "high"}]}]}.'
)


def _run(run: dict[str, Any], path: Path) -> LabelledRun:
    found = run.get("labels", [])
    labels = tuple(_label(one, run["file"], path) for one in found) if isinstance(found, list) else ()
    return LabelledRun(Path(run["file"]).name, labels, str(run.get("repo") or run.get("group") or ""))


def _label(one: Any, file: str, path: Path) -> Label:
    try:
        return msgspec.convert(one, Label)
    except (msgspec.ValidationError, UnicodeError) as error:  # halves of characters, escaped
        raise DataError(f"{path}: a label of {file} is wrong: {error}.", hint=_HINT, file=str(path), found=str(one)) from error
