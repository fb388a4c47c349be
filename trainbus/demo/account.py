"""The demo's account: what each plugin saw, and whether an event was lost. Everything is counted from the journal, nothing assumed."""

from __future__ import annotations

import urllib.request
from collections import Counter
from pathlib import Path

import msgspec

from trainbus.bus import events
from trainbus.bus.client import Client
from trainbus.bus.stream import Record
from trainbus.bus.wire import Cursor, PluginStatus
from trainbus.demo.story import SPIKE_RULE, VICTIM, Story
from trainbus.testing.checker import Findings, HistoryChecker
from trainbus.trainer_node.config import Summary

PLUGINS = ("anomaly", "retention", "memory", "web", "inference")


class Line(msgspec.Struct, kw_only=True, frozen=True):
    """One plugin: its state, how far it has read (offset of the last event finished, and its distance to the end), what it saw."""

    plugin: str
    state: str
    restarts: int
    finished: int
    lag: int
    dead_letters: int
    saw: str


class Check(msgspec.Struct, kw_only=True, frozen=True):
    """Something that the demo shows, with what was found."""

    name: str
    ok: bool
    found: str


class Account(msgspec.Struct, kw_only=True, frozen=True):
    """The whole summary; `ok` when every check holds."""

    run: str
    seconds: float
    steps: int
    published: int
    journaled: int
    delivered: int
    lost: int
    duplicated: int
    gaps: int
    url: str
    plugins: list[Line]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether everything was as promised."""
        return all(check.ok for check in self.checks)


def read_history(client: Client) -> list[Record]:
    """The whole journal, as it is."""
    records: list[Record] = []
    after, done = -1, False
    while not done:
        page = client.history(after=after)
        records += page.events
        after, done = page.next, page.done
    return records


SLACK = 20
"""Offsets that a cursor may be behind the head: memory readings and heartbeats of plugins never stop coming."""


def settled(client: Client) -> bool:
    """Whether every plugin has finished what came before the last `SLACK` events."""
    enough = client.status().head - SLACK
    return all(consumer.offset >= enough for consumer in client.consumers() if consumer.consumer.startswith("plugin:"))


def make_account(client: Client, story: Story, summary: Summary, seconds: float) -> Account:
    """Count. Call it when the run has ended and the plugins have had time to finish."""
    records = read_history(client)
    plugins = {status.name: status for status in msgspec.convert(client.supervise("plugins"), list[PluginStatus])}
    cursors = {cursor.consumer.removeprefix("plugin:"): cursor for cursor in client.consumers()}
    checker = HistoryChecker()
    checker.published(summary.source, summary.published)
    checker.journal(records)
    upto = story.delivered[-1][0] if story.delivered else -1
    checker.reader("the demo's own subscriber", story.delivered, upto=upto)
    findings = checker.check()
    history = [events.decode(body, offset) for offset, body in records]
    mine = sum(event.source == summary.source for event in history)
    kinds = Counter(finding.kind for finding in findings.findings)
    lines = [_line(name, plugins.get(name), cursors.get(name), history, story, len(records) - 1) for name in PLUGINS]
    url = plugins["web"].url if "web" in plugins else ""
    return Account(
        run=summary.run,
        seconds=seconds,
        steps=summary.steps,
        published=summary.published,
        journaled=mine,
        delivered=sum(1 for _, body in story.delivered if events.decode_envelope(body).source == summary.source),
        lost=kinds["lost"],
        duplicated=kinds["duplicated"],
        gaps=sum(event.kind == "gap" for event in history),
        url=url,
        plugins=lines,
        checks=_checks(story, summary, findings, lines, history, url),
    )


def _line(name: str, status: PluginStatus | None, cursor: Cursor | None, history: list[events.AnyEvent], story: Story, head: int) -> Line:
    finished = cursor.offset if cursor else -1
    return Line(
        plugin=name,
        state=status.state if status else "absent",
        restarts=status.restarts if status else 0,
        finished=finished,
        lag=max(0, head - finished),
        dead_letters=cursor.dead_letters if cursor else 0,
        saw=_saw(name, history, story, status.url if status else ""),
    )


def _saw(name: str, history: list[events.AnyEvent], story: Story, url: str) -> str:
    counts = Counter(event.kind for event in history)
    if name == "anomaly":
        raised = Counter(
            event.rule for event in history if isinstance(event, events.Alert) and event.plugin == name and event.state == "raised"
        )
        told = ", ".join(f"{count} {rule}" for rule, count in raised.most_common()) or "no alerts"
        return f"{counts['step']:,} steps; {told}" + (f"; snapshot {Path(story.snapshot).name}" if story.snapshot else "")
    if name == "retention":
        return f"{len(story.complete)} checkpoints: {len(story.deleted)} deleted, {len(story.complete) - len(story.deleted)} kept"
    if name == "memory":
        used = [event.memory.used for event in history if isinstance(event, events.System) and event.memory]
        trees = [process.rss for event in history if isinstance(event, events.System) for process in event.processes]
        return f"{len(used)} readings; host at most {_gib(used)}, training at most {_gib(trees)}"
    if name == "inference":
        rates = list(story.accuracy.values())
        went = f"accuracy {rates[0]:.0%} → {rates[-1]:.0%}" if rates else "nothing"
        return f"{len(rates)} checkpoints examined, {counts['sample']} answers; {went}"
    return f"page at {url}" if url else "no page"


def _gib(sizes: list[int]) -> str:
    return f"{max(sizes, default=0) / 2**30:.1f} GiB"


def _checks(story: Story, summary: Summary, findings: Findings, lines: list[Line], history: list[events.AnyEvent], url: str) -> list[Check]:
    running = [line.plugin for line in lines if line.state == "running" and not line.dead_letters]
    spike = story.spike
    return [
        Check(name="the training ran to its end", ok=summary.outcome == "completed", found=f"{summary.outcome}, {summary.steps} steps"),
        Check(name="no event was lost, repeated or disordered", ok=findings.ok and summary.published > 0, found=findings.explain()),
        Check(name="all five plugins run, without dead letters", ok=len(running) == len(lines), found=", ".join(running) or "none"),
        Check(
            name=f"{VICTIM} was killed and came back",
            ok=story.victim_pid is not None and story.revived,
            found=f"killed process {story.victim_pid}" if story.victim_pid else "not killed",
        ),
        Check(
            name="the learning-rate fault was detected",
            ok=spike is not None,
            found=f"{SPIKE_RULE} at step {spike.step}, fault at step {story.fault_step}" if spike else "no alert",
        ),
        Check(
            name="the checkpoint before it was kept",
            ok=bool(story.snapshot) and Path(story.snapshot).is_dir(),
            found=story.snapshot or "no snapshot",
        ),
        Check(
            name="the newest checkpoint was examined elsewhere",
            ok=story.examined(),
            found=f"{len(story.accuracy)} of {len(story.complete)} checkpoints",
        ),
        Check(name="old checkpoints were deleted", ok=bool(story.deleted), found=f"{len(story.deleted)} of {len(story.complete)}"),
        Check(name="memory was watched", ok=any(event.kind == "system" for event in history), found="system events in the journal"),
        Check(name="the page answers", ok=_answers(url), found=url or "no address"),
    ]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200 and answer.read())
    except (OSError, ValueError):
        return False
