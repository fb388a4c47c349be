"""``transformers serve``: it loads what a request names, so a checkpoint is named by its path.

Loading is asked for before the first question, by ``/load_model`` where the version has it, so that it may take its own time.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.plugins.inference.engines.openai import OpenAIEngine
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.http import short
from trainbus.plugins.inference.pending import Waiting

WITHOUT_ROUTE = frozenset({404, 405})
DATA = b"data: "


class Progress(msgspec.Struct):
    """One event of ``/load_model``."""

    status: str = ""
    message: str = ""


class TransformersEngine(OpenAIEngine):
    """Whole models only: it takes no bare adapter."""

    default_model: ClassVar[str] = "{path}"

    async def prepare(self, entry: Waiting) -> str:
        """Have the model loaded."""
        local = Path(entry.path)
        if (local / "adapter_config.json").is_file() and not (local / "config.json").is_file():
            raise AskError(
                Fault.REFUSED,
                f"{entry.path} is a bare adapter, which `transformers serve` does not take: "
                "ask vLLM or `trainbus serve` instead, or save whole models.",
            )
        name = self.name(entry)
        try:
            told = await self.line.post("load_model", {"model": name}, timeout=self.config.load_timeout, root=True)
        except AskError as error:
            if error.status in WITHOUT_ROUTE:
                return name
            raise
        for line in told.splitlines():
            said = _progress(line)
            if said.status == "error":
                raise AskError(Fault.TROUBLE, f"The server could not load {name}: {short(said.message)}")
        return name


def _progress(line: bytes) -> Progress:
    if not line.startswith(DATA):
        return Progress()
    try:
        return msgspec.json.decode(line[len(DATA) :], type=Progress)
    except DECODE_ERRORS:
        return Progress()
