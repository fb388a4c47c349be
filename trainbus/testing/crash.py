"""Does a plugin come through crashes? Kills it in memory at many places and compares what it has published in the end.

    report = crash_everywhere(Patience, recorded("nan"), config={"limit": 3.0})
    assert report.ok, report.explain()

A crash takes the plugin's object away after a hook has returned and before the cursor is committed. A new one starts with the state of the
last commit, in the same directory, and is given the last events again. What it publishes twice counts once; what differs
otherwise is a finding: an alert whose id counts calls, a sum kept in the object instead of ``context.state``, a clock on the wall.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus import events
from trainbus.testing.context import MemoryContext, PluginHarness

SHOWN = 10
"""Findings that `CrashReport.explain` spells out."""


class CrashFinding(msgspec.Struct, frozen=True, kw_only=True):
    """After a crash at ``offset``, something was ``missing`` or ``added``: ``what`` says what."""

    offset: int
    kind: str
    what: str


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict over all crashes. ``published`` counts what a life without crashes publishes."""

    crashes: int
    published: int
    findings: tuple[CrashFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether no crash made a difference."""
        return not self.findings

    def explain(self) -> str:
        """The verdict in words, for an assertion's message."""
        if self.ok:
            return f"{self.crashes} crashes made no difference to the {self.published} events published."
        lines = [f"{len(self.findings)} differences in {self.crashes} crashes:"]
        lines += [f"  crash at offset {finding.offset}: {finding.kind} {finding.what}" for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"  ... and {len(self.findings) - SHOWN} more.")
        lines.append("Keep what you count in context.state, and let alert ids and times follow from the events.")
        return "\n".join(lines)


def crash_everywhere(
    plugin: Callable[[], Any],
    history: Iterable[events.AnyEvent],
    *,
    config: dict[str, Any] | None = None,
    crashes: int = 20,
    again: int = 3,
) -> CrashReport:
    """Run the plugin over the history, once undisturbed and then with one crash at each of several places.

    Args:
        plugin: Makes a new object of the plugin: its class.
        history: Events in order; see `trainbus.testing.recordings`.
        config: As in ``[plugin.NAME]``.
        crashes: Places, spread evenly; all events when there are fewer.
        again: Events before the crash that had not been committed, and come again.
    """
    feed = list(history)
    for offset, event in enumerate(feed):
        event.offset = offset
    undisturbed = _live(plugin, feed, config, None, again)
    count = min(crashes, len(feed))
    places = sorted({(index + 1) * len(feed) // count - 1 for index in range(count)}) if count else []
    found = [finding for place in places for finding in _compare(place, undisturbed, _live(plugin, feed, config, place, again))]
    return CrashReport(crashes=len(places), published=len(undisturbed), findings=tuple(found))


def _live(
    plugin: Callable[[], Any], feed: Sequence[events.AnyEvent], config: dict[str, Any] | None, crash: int | None, again: int
) -> dict[bytes, str]:
    """What the plugin publishes over the whole feed, each once, with a description; the crash comes behind event ``crash``."""
    with tempfile.TemporaryDirectory(prefix="trainbus-crash-") as folder:
        context = MemoryContext(directory=Path(folder))
        harness = PluginHarness(plugin(), config=config, context=context)
        harness.start()
        committed = -1 if crash is None else max(-1, crash - again)
        saved = copy.deepcopy(context.state)
        for event in feed if crash is None else feed[: crash + 1]:
            harness.feed(copy.deepcopy(event))
            if event.offset == committed:
                saved = copy.deepcopy(context.state)
        if crash is None:
            harness.stop()
            return _distinct(context.published)
        harness.kill()
        context.state = saved
        harness = PluginHarness(plugin(), config=config, context=context)
        harness.start()
        for event in feed[committed + 1 :]:
            harness.feed(copy.deepcopy(event))
        harness.stop()
        return _distinct(context.published)


def _distinct(published: Iterable[events.Event]) -> dict[bytes, str]:
    made = {}
    for event in published:
        name = getattr(event, "id", "") or getattr(event, "name", "")
        made[events.encode(event)] = f"{event.kind} {name} ({msgspec.json.encode(event).decode()[:160]})"
    return made


def _compare(place: int, undisturbed: dict[bytes, str], crashed: dict[bytes, str]) -> list[CrashFinding]:
    missing = [CrashFinding(offset=place, kind="missing", what=what) for body, what in undisturbed.items() if body not in crashed]
    added = [CrashFinding(offset=place, kind="added", what=what) for body, what in crashed.items() if body not in undisturbed]
    return missing + added
