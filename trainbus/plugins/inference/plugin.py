"""Remote inference as a plugin: complete checkpoints go into a durable queue, which a background task works through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.inference import questions
from trainbus.plugins.inference.config import InferenceConfig, api_key, check
from trainbus.plugins.inference.examiner import Examiner


class InferencePlugin:
    """Examines each checkpoint on a server of its own, while training goes on."""

    def __init__(self) -> None:
        self.examiner: Examiner | None = None
        self._work: asyncio.Task[None] | None = None

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """Settings of ``[plugin.inference]``."""
        return InferenceConfig

    @hookimpl
    async def start(self, context: Context) -> None:
        """Read the questions and go on with what was waiting when the plugin ended.

        Raises:
            ConfigError: A setting can't work.
            DataError: The file of questions is malformed.
        """
        config = context.config
        if not isinstance(config, InferenceConfig):
            raise ConfigError("plugin.inference has no settings.", hint="The host gives a plugin an instance of its config schema.")
        check(config)
        key = api_key(config)
        path = Path(config.questions).expanduser()
        asked = await asyncio.to_thread(questions.load, path, limit=config.limit)
        self.examiner = Examiner(config, asked, config.dataset or path.stem, key, context)
        self._work = asyncio.create_task(self.examiner.run())
        context.logger.info("%d questions of %s for %s; %d checkpoints wait", len(asked), path, config.url, self.examiner.stats().behind)

    @hookimpl
    async def stop(self, context: Context) -> None:
        """End the work at hand; the checkpoint stays in the queue and its lease is given back."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    @hookimpl
    def on_checkpoint(self, event: events.Checkpoint, context: Context) -> None:
        """A complete checkpoint waits to be examined; a deleted one no longer does. A repeat changes nothing."""
        if self.examiner is None or not event.id:
            return
        if event.state == "complete" and self.examiner.queue.add(event):
            self.examiner.wake()
        elif event.state == "deleted":
            self.examiner.queue.remove(event.id)
            self.examiner.wake()
