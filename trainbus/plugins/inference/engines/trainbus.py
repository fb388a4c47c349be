"""``trainbus serve``: adapters and whole models, from a path that it sees, sent to it, or fetched by it, file by file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from trainbus.plugins.inference.engines.openai import OpenAIEngine
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.http import decoded
from trainbus.plugins.inference.offering import offered
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.travel import mapped
from trainbus.plugins.inference.upload import Contents, Registered, contents_of, left, send

ROUNDS = 3
"""Times that the server is asked what it lacks: once, again when all is sent, and once more when it has lost something meanwhile."""

FETCHED_LEAST = 64 * 1024
"""Bytes that each round of fetching (20 s, with what `trainbus serve` allows itself) must bring: less would take for ever."""


class TrainbusEngine(OpenAIEngine):
    """Registers each checkpoint under its id, has it loaded, and lets it go from memory when it is examined."""

    default_model: ClassVar[str] = "{id}"
    unknown_model: ClassVar[Fault] = Fault.TROUBLE
    """It was registered a moment ago: the server has restarted, and must be told again."""

    alternatives: ClassVar[int] = 0
    """It tells the entropy itself."""

    async def prepare(self, entry: Waiting) -> str:
        """Make the checkpoint known and loaded; with ``upload`` or ``fetch``, bring the server what it lacks."""
        body: dict[str, Any] = {"name": self.name(entry), "base": self.config.base, "load": True}
        if not (self.config.upload or self.config.fetch):
            await self._register(body | {"path": mapped(entry.path, self.config.paths)})
            return str(body["name"])
        folder = Path(entry.path)
        try:
            contents: Contents = await asyncio.to_thread(contents_of, folder)
        except OSError as error:
            raise AskError(Fault.REFUSED, f"{folder} can't be read: {error.strerror or error}.") from error
        body |= {
            "digest": contents.digest,
            "files": {name: {"bytes": file.bytes, "xxh3": file.xxh3} for name, file in contents.files.items()},
        }
        await (self._sent(folder, contents, body) if self.config.upload else self._fetched(folder, contents, body))
        return str(body["name"])

    async def _sent(self, folder: Path, contents: Contents, body: dict[str, Any]) -> None:
        for _ in range(ROUNDS):
            told = await self._register(body)
            if told.state == "ready":
                return
            await send(self.line, folder, contents, told, timeout=self.config.load_timeout)
        raise AskError(Fault.TROUBLE, f"{self.line.url} still lacks files of {folder} after it was sent all of them.")

    async def _fetched(self, folder: Path, contents: Contents, body: dict[str, Any]) -> None:
        """The server answers from time to time how much it lacks; it is asked again as long as it gets on."""
        async with offered(folder, contents, self.config.offer_bind, self.config.offer_url) as offer:
            body = body | {"url": offer.url, "token": offer.token}
            lacking = None
            while (told := await self._register(body, "models/fetch")).state != "ready":
                before, lacking = lacking, left(contents, told, self.line.url)
                if before is not None and lacking > before - FETCHED_LEAST:
                    raise AskError(Fault.TROUBLE, f"{self.line.url} gets {folder} too slowly: {lacking} bytes are still missing.")

    async def release(self, model: str) -> None:
        """Out of the server's memory. What was sent stays in its store, for others and for the next time."""
        await self.line.post("models/unload", {"model": model}, timeout=self.config.timeout)

    async def _register(self, body: dict[str, Any], route: str = "models/register") -> Registered:
        try:
            raw = await self.line.post(route, body, timeout=self.config.load_timeout)
        except AskError as error:
            if error.fault is Fault.QUESTION:
                raise AskError(Fault.REFUSED, error.problem, status=error.status, reason=error.reason) from error
            raise
        return decoded(raw, Registered, "a registration by `trainbus serve`")
