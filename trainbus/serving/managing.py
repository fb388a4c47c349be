"""The routes that list, register, load, swap, upload and unload models."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec import Struct

from trainbus.errors import ModelError, RefusedError
from trainbus.serving.catalogue import Catalogue, Entry
from trainbus.serving.fetching import Fetcher
from trainbus.serving.loading import is_adapter
from trainbus.serving.replies import body_of, error_body, json
from trainbus.serving.residency import Residency
from trainbus.serving.store import CHUNK_BYTES, Content, Missing, Store

log = logging.getLogger(__name__)

CHUNK_SECONDS = 120.0
"""A chunk that takes longer is sent again: the connection is too slow or dead."""


class Register(Struct, kw_only=True):
    """``POST /models/register``: a folder that the server sees, or the list of a model's files, as in a checkpoint's marker.

    ``base`` names an adapter's base, ``digest`` is that over all files. With ``load`` it is loaded at once, with ``active`` it becomes
    the model that is asked when none is named.
    """

    name: str = ""
    path: str = ""
    files: dict[str, Content] | None = None
    digest: str = ""
    base: str = ""
    load: bool = False
    active: bool = False


class Fetch(Register, kw_only=True):
    """``POST /models/fetch``: as `Register` with ``files``, which are got from ``URL/XXH3`` with ``token`` as the bearer's."""

    url: str
    token: str


class Named(Struct, kw_only=True):
    """``POST /models/set_active``, ``/models/load``, ``/models/unload``."""

    model: str
    load: bool = True


class LoadLora(Struct, kw_only=True):
    """vLLM's ``/v1/load_lora_adapter``."""

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False
    base_model_name: str | None = None


class UnloadLora(Struct, kw_only=True):
    """vLLM's ``/v1/unload_lora_adapter``."""

    lora_name: str = ""
    lora_int_id: int | None = None


class Managing:
    """Handlers.

    Args:
        catalogue: What may be asked for.
        residency: What is in memory.
        store: What was sent here; None: nothing may be.
        fetcher: Gets files by itself; None: it may not.
    """

    def __init__(self, catalogue: Catalogue, residency: Residency, store: Store | None, fetcher: Fetcher | None = None) -> None:
        self._catalogue = catalogue
        self._residency = residency
        self._store = store
        self._fetcher = fetcher
        if store is not None:
            for folder, manifest in store.kept():
                for name in manifest.names:
                    self._readd(name, folder, manifest.digest, manifest.base)

    async def openai_models(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/models``: OpenAI's form, with vLLM's ``root`` and ``parent``."""
        data = [
            {
                "id": entry.id,
                "object": "model",
                "created": int(entry.created),
                "owned_by": "trainbus",
                "root": str(entry.folder) if entry.origin != "uploaded" else entry.digest,
                "parent": self._base(entry) or None,
            }
            for entry in self._catalogue
        ]
        return json({"object": "list", "data": data})

    async def models(self, request: web.Request) -> web.StreamResponse:
        """``GET /models``: with what is known of each."""
        return json({"active": self._catalogue.active, "models": [self._told(entry) for entry in self._catalogue]})

    async def active(self, request: web.Request) -> web.StreamResponse:
        """``GET /models/active``."""
        return json(self._told(self._catalogue.find("")))

    async def set_active(self, request: web.Request) -> web.StreamResponse:
        """``POST /models/set_active``: requests that name no model get this one."""
        asked = await body_of(request, Named)
        entry = self._catalogue.find(asked.model)
        if asked.load:
            await self._load(entry)
        self._catalogue.active = entry.id
        return json(self._told(entry))

    async def load(self, request: web.Request) -> web.StreamResponse:
        """``POST /models/load``: have it in memory before the first question."""
        entry = self._catalogue.find((await body_of(request, Named)).model)
        await self._load(entry)
        return json(self._told(entry))

    async def unload(self, request: web.Request) -> web.StreamResponse:
        """``POST /models/unload``: out of memory; it may still be asked for."""
        entry = self._catalogue.find((await body_of(request, Named)).model)
        return json({"unloaded": await self._residency.unload(entry), **self._told(entry)})

    async def register(self, request: web.Request) -> web.StreamResponse:
        """``POST /models/register``: 200 when it may be asked for, 202 with what is still to be sent."""
        asked = await body_of(request, Register)
        if bool(asked.path) == bool(asked.files):
            raise RefusedError("Either `path` or `files` says where the model is.", hint="Give one of them.", code="invalid", param="path")
        if asked.files:
            return await self._from_store(asked, asked.files)
        folder = self._catalogue.allowed(asked.path)
        return await self._registered(
            asked, self._add(asked.name or asked.path, folder, origin="path", digest=asked.digest, base=asked.base)
        )

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """``POST /models/fetch``: as ``/models/register``, and the server gets what it lacks; 202 when it needs more time."""
        asked = await body_of(request, Fetch)
        if self._fetcher is None:
            raise RefusedError("This server fetches nothing.", hint="Start it with --store and --fetch-from HOST.", code="unsupported")
        if not asked.files:
            raise RefusedError("`files` says what is fetched.", hint="Send the list as the marker has it.", code="invalid", param="files")
        self._sending().digest_of(asked.files, asked.digest)
        await self._lacking(asked.files)
        await self._fetcher.fetch(asked.url, asked.token, asked.files)
        return await self._from_store(asked, asked.files)

    async def _from_store(self, asked: Register, files: dict[str, Content]) -> web.StreamResponse:
        store = self._sending()
        digest = store.digest_of(files, asked.digest)
        if missing := await self._lacking(files):
            ignored = sorted(set(files) - set(store.wanted(files)))
            return json({"state": "incomplete", "digest": digest, "missing": missing, "ignored": ignored, "chunk_bytes": CHUNK_BYTES}, 202)
        name = asked.name or digest
        folder = await asyncio.to_thread(store.assemble, files, digest, name, asked.base)
        return await self._registered(asked, self._add(name, folder, origin="uploaded", digest=digest, base=asked.base))

    async def _registered(self, asked: Register, entry: Entry) -> web.StreamResponse:
        if asked.load:
            await self._load(entry)
        if asked.active:
            self._catalogue.active = entry.id
        return json({"state": "ready", **self._told(entry)})

    async def _lacking(self, files: dict[str, Content]) -> list[Missing]:
        """What is not here yet; room is made for it."""
        store = self._sending()
        missing = await asyncio.to_thread(store.missing, files)
        if missing:
            await self._make_room(store, sum(one.bytes - one.received for one in missing))
        return missing

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """``GET /blobs/XXH3?bytes=N``: how much of a file is here."""
        content = _content(request)
        received = await asyncio.to_thread(self._sending().received, content)
        return json({"received": received, "complete": received == content.bytes})

    async def put_blob(self, request: web.Request) -> web.StreamResponse:
        """``PUT /blobs/XXH3?bytes=N&offset=M``: a chunk; ``X-Chunk-XXH3`` is its own digest."""
        store, content, offset = self._sending(), _content(request), _number(request, "offset")
        chunk = bytearray()
        try:
            async with asyncio.timeout(CHUNK_SECONDS):
                async for block in request.content.iter_any():
                    chunk += block
                    if len(chunk) > CHUNK_BYTES:
                        raise RefusedError(f"A chunk has at most {CHUNK_BYTES} bytes.", hint="Send several.", code="too_large")
        except TimeoutError as error:
            raise RefusedError(f"The chunk did not come within {CHUNK_SECONDS:g} s.", hint="Send smaller ones.", code="invalid") from error
        digest = request.headers.get("X-Chunk-XXH3", "").lower()
        try:
            received = await asyncio.to_thread(store.receive, content, offset, bytes(chunk), digest)
        except RefusedError as error:
            if "received" not in error.facts:
                raise
            body = error_body(f"{error.problem} {error.hint}", "invalid_request_error", "conflict")
            return json({**body, "received": error.facts["received"]}, 409)
        return json({"received": received, "complete": received == content.bytes})

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """``DELETE /models/NAME``: forgotten; what was sent here is deleted with its last name."""
        entry = self._known(request.match_info["name"])
        await self._residency.unload(entry)
        self._catalogue.remove(entry.id)
        if entry.origin == "uploaded" and not any(other.folder == entry.folder for other in self._catalogue):
            await asyncio.to_thread(self._sending().remove, entry.folder)
        return json({"id": entry.id, "object": "model", "deleted": True})

    async def load_lora(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/load_lora_adapter``, with vLLM's words."""
        asked = await body_of(request, LoadLora)
        if not asked.lora_name or not asked.lora_path:
            return _invalid("Both 'lora_name' and 'lora_path' must be provided.")
        if any(entry.id == asked.lora_name for entry in self._catalogue):
            if not asked.load_inplace:
                return _invalid(
                    f"The lora adapter '{asked.lora_name}' has already been loaded. "
                    "If you want to load the adapter in place, set 'load_inplace' to True."
                )
            await self._residency.unload(self._known(asked.lora_name))
            self._catalogue.remove(asked.lora_name)
        try:
            folder = self._catalogue.allowed(asked.lora_path)
        except RefusedError:
            return json(error_body(f"No adapter found for {asked.lora_path}", "NotFoundError", 404), 404)
        if not is_adapter(folder):
            return _invalid(f"{asked.lora_path} holds no adapter.")
        entry = self._add(asked.lora_name, folder, origin="lora", base=asked.base_model_name or "")
        try:
            await self._load(entry)
        except BaseException:
            self._catalogue.remove(entry.id)
            raise
        return web.Response(text=f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload_lora(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/unload_lora_adapter``, with vLLM's words."""
        asked = await body_of(request, UnloadLora)
        if not asked.lora_name:
            return _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
        entry = next((one for one in self._catalogue if one.id == asked.lora_name and one.adapter), None)
        if entry is None:
            return json(error_body(f"The lora adapter '{asked.lora_name}' cannot be found.", "NotFoundError", 404), 404)
        await self._residency.unload(entry)
        self._catalogue.remove(entry.id)
        return web.Response(text=f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    async def _load(self, entry: Entry) -> None:
        async with self._residency.using(entry.id):
            pass

    async def _make_room(self, store: Store, needed: int) -> None:
        """Let uploads go that are not in memory, the least recently used first."""
        used: dict[Path, float] = {}
        for entry in self._catalogue:
            if entry.origin == "uploaded":
                last = math.inf if self._residency.loaded(entry) else max(entry.used, entry.created)
                used[entry.folder] = max(used.get(entry.folder, 0.0), last)
        idle = sorted((folder for folder, last in used.items() if last < math.inf), key=lambda folder: used[folder])
        for folder in await asyncio.to_thread(store.surplus, needed, idle):
            for entry in [one for one in self._catalogue if one.folder == folder]:
                self._catalogue.remove(entry.id)
            await asyncio.to_thread(store.remove, folder)

    def _add(self, name: str, folder: Any, **facts: str) -> Entry:
        try:
            return self._catalogue.add(name, folder, **facts)
        except ModelError as error:  # what was asked for is no model: the asker's fault, not the server's
            raise RefusedError(error.problem, hint=error.hint, code="invalid") from error

    def _readd(self, name: str, folder: Any, digest: str, base: str) -> None:
        active = self._catalogue.active
        try:
            self._catalogue.add(name, folder, origin="uploaded", digest=digest, base=base)
        except (ModelError, RefusedError) as error:  # damaged, or its name is now that of a configured one
            log.warning("%s is passed over: %s", folder, error.problem)
        self._catalogue.active = active or self._catalogue.active

    def _known(self, name: str) -> Entry:
        """As `Catalogue.find`, but a path makes nothing known."""
        if not any(name in (entry.id, entry.digest) for entry in self._catalogue):
            raise RefusedError(f"The model {name!r} does not exist.", code="unknown")
        return self._catalogue.find(name)

    def _sending(self) -> Store:
        if self._store is None:
            raise RefusedError("This server takes no uploads.", hint="Start it with --store FOLDER.", code="unsupported")
        return self._store

    def _base(self, entry: Entry) -> str:
        try:
            return self._catalogue.base_of(entry).id if entry.adapter else ""
        except (RefusedError, ModelError):
            return ""

    def _told(self, entry: Entry) -> dict[str, Any]:
        return {
            "id": entry.id,
            "digest": entry.digest,
            "kind": "adapter" if entry.adapter else "model",
            "base": self._base(entry),
            "origin": entry.origin,
            "loaded": self._residency.loaded(entry),
            "active": entry.id == self._catalogue.active,
            "bytes": entry.size() if entry.folder.is_dir() else 0,
            "used": entry.used,
        }


def _invalid(message: str) -> web.Response:
    return json(error_body(message, "InvalidUserInput", 400), 400)


def _content(request: web.Request) -> Content:
    return Content(_number(request, "bytes"), request.match_info["xxh3"])


def _number(request: web.Request, name: str) -> int:
    given = request.query.get(name, "")
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise RefusedError(f"`{name}` is no number of bytes: {given[:40]!r}.", code="invalid", param=name)
    return int(given)
