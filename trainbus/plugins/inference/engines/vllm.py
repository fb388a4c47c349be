"""vLLM with run-time LoRA loading: each adapter is loaded under the checkpoint's id, asked, and unloaded.

The server needs ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``:
https://docs.vllm.ai/en/latest/features/lora/#dynamically-serving-lora-adapters
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trainbus.plugins.inference.engines.openai import NOT_FOUND, OpenAIEngine
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.travel import mapped

ALREADY = "already been loaded"
"""How every version of vLLM words that an adapter of this name is there (400, InvalidUserInput)."""


class VllmEngine(OpenAIEngine):
    """Loads and unloads adapters by ``/load_lora_adapter`` and ``/unload_lora_adapter``."""

    default_model: ClassVar[str] = "{id}"
    unknown_model: ClassVar[Fault] = Fault.TROUBLE
    """It was loaded a moment ago: the server has restarted, and must load it again."""

    async def prepare(self, entry: Waiting) -> str:
        """Load the adapter, unless it is there."""
        local = Path(entry.path)
        if local.is_dir() and not (local / "adapter_config.json").is_file():
            raise AskError(Fault.REFUSED, f"{entry.path} is a whole model; vLLM loads only LoRA adapters while it runs.")
        name = self.name(entry)
        try:
            await self._load(name, entry)
        except AskError as error:
            if ALREADY not in error.reason:
                raise
            if "{id}" not in (self.config.model or self.default_model):
                # The name doesn't say which checkpoint it is: what is loaded may be the one before.
                await self.release(name)
                await self._load(name, entry)
        return name

    async def release(self, model: str) -> None:
        """Unload the adapter; no error when the server doesn't have it, as after a restart of it."""
        try:
            await self.line.post("unload_lora_adapter", {"lora_name": model}, timeout=self.config.timeout)
        except AskError as error:
            if error.status != NOT_FOUND:
                raise

    async def _load(self, name: str, entry: Waiting) -> None:
        path = mapped(entry.path, self.config.paths)
        try:
            await self.line.post("load_lora_adapter", {"lora_name": name, "lora_path": path}, timeout=self.config.load_timeout)
        except AskError as error:
            if error.status == NOT_FOUND and error.reason in ("", "Not Found"):
                problem = "The server has no /load_lora_adapter: start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
                raise AskError(Fault.REFUSED, problem, status=error.status) from error
            if error.status == NOT_FOUND:
                problem = (
                    f"The server finds no adapter at {path}: {error.reason} Say by plugin.inference.paths where it finds {entry.path}."
                )
                raise AskError(Fault.REFUSED, problem, status=error.status, reason=error.reason) from error
            if error.fault is Fault.QUESTION:
                raise AskError(Fault.REFUSED, error.problem, status=error.status, reason=error.reason) from error
            raise
