"""A plugin that goes on working between events: its hooks run in an event loop that keeps turning, in a thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from trainbus.testing.context import MemoryContext, PluginHarness

HOOK_SECONDS = 30.0
"""A hook that needs longer has failed the test."""


class LiveHarness(PluginHarness):
    """As `PluginHarness`, for plugins with background tasks or servers. A context manager: starts and stops the plugin.

    Hooks, plain ones too, run inside the loop, one at a time, as in a plugin host.
    """

    def __init__(
        self,
        plugin: Any,
        *,
        config: dict[str, Any] | None = None,
        context: MemoryContext | None = None,
        directory: Path | None = None,
        name: str = "plugin",
    ) -> None:
        super().__init__(plugin, config=config, context=context, directory=directory, name=name)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._turn, name=f"plugin-{name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> LiveHarness:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Call the stop hook and end the event loop."""
        try:
            if self._thread.is_alive():
                self._call("stop")
        finally:
            self.kill()

    def kill(self) -> None:
        """End the event loop without the stop hook, as a crash does; background tasks are cancelled. No error when it has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Here and not in `kill`: the caller's thread may have a loop of its own, beside which no other can run.
        self._runner.close()

    def _call(self, hook: str, **arguments: Any) -> list[Any]:
        return asyncio.run_coroutine_threadsafe(self._run(hook, arguments), self._loop).result(HOOK_SECONDS)

    async def _run(self, hook: str, arguments: dict[str, Any]) -> list[Any]:
        return await self._gather(getattr(self.manager.hook, hook)(context=self.context, **arguments))
