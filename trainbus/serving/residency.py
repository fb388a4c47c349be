"""Which models are in memory: loaded when they are asked for, unloaded when room is needed, the least recently used first.

Imports torch when a model is loaded.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from trainbus.errors import ModelError, RefusedError
from trainbus.serving.catalogue import Catalogue, Entry
from trainbus.serving.config import MIB, ServeConfig

if TYPE_CHECKING:
    from trainbus.serving.generation import Generator

log = logging.getLogger(__name__)

SHARE_OF_FREE = 2 / 3
"""Weights may take so much of what is free at the start; the rest is for caches and activations."""
HALF_TYPES = ("bfloat16", "float16")


class Use(NamedTuple):
    """A model that stays loaded while it is used. ``adapter`` is the name to ask the generator with."""

    generator: Generator
    adapter: str
    entry: Entry


class ResidencyStats(Struct, frozen=True, kw_only=True):
    """``loads`` and ``unloads`` are of base models, ``adapter_loads`` of adapters, since the start."""

    budget_bytes: int
    used_bytes: int
    loads: int
    unloads: int
    adapter_loads: int
    loaded: tuple[str, ...]


class _Adapter:
    def __init__(self, entry: Entry, slot: str) -> None:
        self.entry = entry
        self.slot = slot
        self.uses = 0
        self.last = 0


class _Resident:
    def __init__(self, entry: Entry, stamp: str, generator: Generator, size: int) -> None:
        self.entry = entry
        self.stamp = stamp
        self.generator = generator
        self.bytes = size
        self.uses = 0
        self.last = 0
        self.adapters: dict[str, _Adapter] = {}


class Residency:
    """Belongs to one event loop.

    Args:
        catalogue: Which models there are.
        config: Device, budget and limits.
    """

    def __init__(self, catalogue: Catalogue, config: ServeConfig) -> None:
        self._catalogue = catalogue
        self._config = config
        self._residents: dict[Path, _Resident] = {}
        self._changing = asyncio.Lock()
        self._clock = itertools.count(1)
        self._budget = config.memory_bytes
        self._loads = self._unloads = self._adapter_loads = 0

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Use]:
        """A model or adapter, loaded if need be, which stays for the time of the block.

        Raises:
            RefusedError: ``facts["code"]`` is ``unknown``, ``busy`` when there is no room beside what is in use, or ``unloadable``.
        """
        try:
            entry = self._catalogue.find(name)
            base = self._catalogue.base_of(entry) if entry.adapter else entry
            async with self._changing:
                resident, adapter = await self._taken(base, entry)
        except ModelError as error:  # asking again would change nothing, unlike a failure while answering
            raise RefusedError(error.problem, hint=error.hint, code="unloadable") from error
        entry.used = base.used = _now()
        try:
            yield Use(resident.generator, adapter.slot if adapter else "", entry)
        finally:
            resident.uses -= 1
            resident.last = next(self._clock)
            if adapter is not None:
                adapter.uses -= 1
                adapter.last = resident.last

    def loaded(self, entry: Entry) -> bool:
        """Whether it is in memory."""
        if not entry.adapter:
            return entry.folder in self._residents
        return any(entry.id in resident.adapters for resident in self._residents.values())

    async def unload(self, entry: Entry) -> bool:
        """Let a model or adapter go; False when it was not loaded.

        Raises:
            RefusedError: It is in use (``facts["code"]``: ``busy``).
        """
        async with self._changing:
            for resident in list(self._residents.values()):
                if entry.adapter and entry.id in resident.adapters:
                    adapter = resident.adapters[entry.id]
                    if adapter.uses:
                        raise _busy(entry.id)
                    await self._drop_adapter(resident, adapter)
                    return True
                if not entry.adapter and resident.entry.folder == entry.folder:
                    if resident.uses:
                        raise _busy(entry.id)
                    await self._drop(resident)
                    return True
        return False

    async def close(self) -> None:
        """Let all go; who still waits for an answer is told so."""
        async with self._changing:
            for resident in list(self._residents.values()):
                await self._drop(resident)

    def generators(self) -> dict[str, Generator]:
        """The generators of loaded bases, by the bases' names."""
        return {resident.entry.id: resident.generator for resident in self._residents.values()}

    def stats(self) -> ResidencyStats:
        """What is in memory, and counts so far."""
        residents = self._residents.values()
        return ResidencyStats(
            budget_bytes=self._budget,
            used_bytes=sum(resident.bytes for resident in residents),
            loads=self._loads,
            unloads=self._unloads,
            adapter_loads=self._adapter_loads,
            loaded=(*(one.entry.id for one in residents), *(name for one in residents for name in one.adapters)),
        )

    async def _taken(self, base: Entry, entry: Entry) -> tuple[_Resident, _Adapter | None]:
        """Both are in use from now on."""
        resident = await self._resident(base)
        resident.uses += 1  # before the adapter is loaded: nobody may unload the base meanwhile
        try:
            adapter = await self._adapted(resident, entry) if entry.adapter else None
        except BaseException:
            resident.uses -= 1
            raise
        if adapter is not None:
            adapter.uses += 1
        return resident, adapter

    async def _resident(self, base: Entry) -> _Resident:
        stamp = base.stamp()
        resident = self._residents.get(base.folder)
        if resident is not None and (resident.stamp == stamp or resident.uses):
            return resident  # while the old weights are being asked, the new ones wait
        if resident is not None:
            await self._drop(resident)
        await self._make_room(base)
        generator, size = await asyncio.to_thread(self._load, base)
        resident = self._residents[base.folder] = _Resident(base, stamp, generator, size)
        resident.last = next(self._clock)
        self._loads += 1
        log.info("loaded %s (%d MiB)", base.id, size // MIB)
        return resident

    def _load(self, base: Entry) -> tuple[Generator, int]:
        from trainbus.serving.engine import Limits
        from trainbus.serving.generation import Generator
        from trainbus.serving.loading import load

        loaded = load(base.folder, device=self._config.device, dtype=self._config.dtype)
        limits = Limits(max_batch=self._config.max_batch, max_waiting=self._config.max_waiting, threads=self._config.threads)
        return Generator(loaded.model, loaded.tokenizer, limits=limits), loaded.bytes

    async def _make_room(self, base: Entry) -> None:
        self._budget = self._budget or await asyncio.to_thread(_free_bytes, self._config.device)
        needed = await asyncio.to_thread(_needed, base, self._config)
        if needed > self._budget:
            raise ModelError(
                f"{base.id} needs {needed // MIB} MiB, and models may take {self._budget // MIB} MiB in all.",
                hint="Raise --memory, choose a smaller --dtype, or serve a smaller model.",
            )
        while sum(resident.bytes for resident in self._residents.values()) + needed > self._budget:
            idle = [resident for resident in self._residents.values() if not resident.uses]
            if not idle:
                raise RefusedError(f"There is no room for {base.id} beside the models in use.", hint="Ask again in a moment.", code="busy")
            await self._drop(min(idle, key=lambda resident: resident.last))

    async def _adapted(self, resident: _Resident, entry: Entry) -> _Adapter:
        slot = f"{entry.id}@{entry.stamp()}"
        adapter = resident.adapters.get(entry.id)
        if adapter is not None and (adapter.slot == slot or adapter.uses):
            return adapter
        if adapter is not None:
            await self._drop_adapter(resident, adapter)
        idle = [one for one in resident.adapters.values() if not one.uses]
        if len(resident.adapters) >= self._config.max_adapters and idle:
            await self._drop_adapter(resident, min(idle, key=lambda one: one.last))
        await asyncio.to_thread(resident.generator.add_adapter, slot, entry.folder)
        adapter = resident.adapters[entry.id] = _Adapter(entry, slot)
        adapter.last = next(self._clock)
        self._adapter_loads += 1
        log.info("loaded %s over %s", entry.id, resident.entry.id)
        return adapter

    async def _drop_adapter(self, resident: _Resident, adapter: _Adapter) -> None:
        await asyncio.to_thread(resident.generator.remove_adapter, adapter.slot)
        del resident.adapters[adapter.entry.id]
        log.info("unloaded %s", adapter.entry.id)

    async def _drop(self, resident: _Resident) -> None:
        del self._residents[resident.entry.folder]
        await asyncio.to_thread(resident.generator.close)
        self._unloads += 1
        log.info("unloaded %s", resident.entry.id)
        del resident
        await asyncio.to_thread(_release)


def _needed(base: Entry, config: ServeConfig) -> int:
    """Bytes that the weights will take: twice the file where halves are stored and float32 is computed with."""
    size = base.size()
    settings = msgspec.json.decode((base.folder / "config.json").read_bytes(), type=dict[str, object])
    halves = (settings.get("dtype") or settings.get("torch_dtype")) in HALF_TYPES
    whole = config.dtype == "float32" or (config.dtype == "auto" and _is_cpu(config.device))
    return size * 2 if halves and whole else size // 2 if not halves and config.dtype in HALF_TYPES else size


def _is_cpu(device: str) -> bool:
    import torch

    return device == "cpu" or (device == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available())


def _free_bytes(device: str) -> int:
    import torch

    if not _is_cpu(device) and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(None if device == "auto" else device)
        return int(free * SHARE_OF_FREE)
    from trainbus.serving.machine import free_memory

    return int(free_memory() * SHARE_OF_FREE)


def _release() -> None:
    import torch

    gc.collect()  # modules and their hooks hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _busy(name: str) -> RefusedError:
    return RefusedError(f"{name} is being asked.", hint="Try again when its answers are done.", code="busy")


def _now() -> float:
    import time

    return time.time()
