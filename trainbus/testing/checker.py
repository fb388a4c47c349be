"""Checks a whole history against the delivery contract: nothing lost, nothing twice, everything in order, or a gap event that says why.

What was published, what the journal holds and what each reader was given are recorded by whoever runs the test: the simulation, tests with
real processes, the demo. `HistoryChecker.check` compares them and tells every difference, first the ones that matter most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from trainbus.bus import events, wire
from trainbus.bus.filter import Filter
from trainbus.bus.stream import Record

Kind: TypeAlias = Literal["lost", "duplicated", "disordered", "changed", "invented", "unreadable"]

SHOWN = 20
"""Findings that `Findings.explain` spells out; the rest is counted."""


class Finding(Struct, frozen=True, kw_only=True):
    """One breach of the contract.

    ``where`` is ``journal`` or the reader's name. ``lost``: missing and unexplained. ``duplicated``: there more than once.
    ``disordered``: before something older. ``changed``: with another body. ``invented``: never published, or never asked for.
    ``unreadable``: bytes that are no event. ``count`` is how many events it is about.
    """

    kind: Kind
    where: str
    what: str
    count: int = 1


class Findings(Struct, frozen=True, kw_only=True):
    """The verdict. ``explained`` counts published events that are missing and whose gap event says why."""

    findings: tuple[Finding, ...]
    published: int
    journaled: int
    explained: int
    delivered: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether the contract was kept."""
        return not self.findings

    def count(self, *kinds: Kind, where: str = "") -> int:
        """How many events the findings of these kinds are about, in all places or in one."""
        return sum(finding.count for finding in self.findings if finding.kind in kinds and where in ("", finding.where))

    def explain(self) -> str:
        """The verdict in words, for an assertion's message and for the demo's summary."""
        readers = ", ".join(f"{name} {count:,}" for name, count in self.delivered.items()) or "nobody"
        summary = f"{self.published:,} published, {self.journaled:,} in the journal, {self.explained:,} missing with a gap event"
        summary += f"; delivered: {readers}."
        if self.ok:
            return f"Nothing lost, nothing twice, all in order: {summary}"
        counts = Counter(finding.kind for finding in self.findings)
        lines = [f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}: {summary}"]
        lines += [f"  {finding.kind} in {finding.where}: {finding.what}" for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"  ... and {len(self.findings) - SHOWN} more.")
        return "\n".join(lines)


class _Reader(Struct):
    choice: Filter
    delivered: list[Record]
    after: int
    upto: int | None
    at_least_once: bool


class HistoryChecker:
    """Collects what happened, then judges it.

        checker = HistoryChecker()
        checker.published("5f3a", 5_000)
        checker.journal(client.history(...))
        checker.reader("late subscriber", delivered)
        assert checker.check().ok, checker.check().explain()

    Events that the journal holds of sources that nobody declared (the broker itself, a plugin) are checked for order and repetition alone.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._bodies: dict[str, Mapping[int, bytes]] = {}
        self._journal: list[Record] = []
        self._readers: dict[str, _Reader] = {}

    def published(self, source: str, count: int, bodies: Mapping[int, bytes] | None = None) -> None:
        """A source's `publish` returned ``count`` times (seqs 0 to ``count`` - 1), where known with these bodies by seq."""
        self._counts[source] = count
        self._bodies[source] = bodies or {}

    def journal(self, records: Iterable[Record]) -> None:
        """The journal's whole history, or the next part of it, as the broker gives it."""
        self._journal += records

    def reader(
        self,
        name: str,
        delivered: Iterable[Record],
        *,
        kinds: Iterable[str] = (),
        runs: Iterable[str] = (),
        after: int = -1,
        upto: int | None = None,
        at_least_once: bool = False,
    ) -> None:
        """What one reader was given, in the order in which it was.

        Args:
            name: For the findings.
            delivered: Offsets and bodies. Heartbeats (offset -1) are left out of account.
            kinds: What it asked for; empty means all.
            runs: As ``kinds``.
            after: Where it began: offsets above this one must be there.
            upto: Where it ended; None for the journal's end.
            at_least_once: It was restarted on the way (a plugin): what it had not committed comes again, in order. Otherwise exactly once.
        """
        records = [record for record in delivered if record[0] >= 0]
        self._readers[name] = _Reader(Filter(kinds, runs), records, after, upto, at_least_once)

    def check(self) -> Findings:
        """Compare everything with everything."""
        found: list[Finding] = []
        seqs, gaps, topics = self._read_journal(found)
        explained = sum(self._check_source(source, seqs.get(source, {}), gaps.get(source, []), found) for source in self._counts)
        for name, reader in self._readers.items():
            self._check_reader(name, reader, topics, found)
        return Findings(
            findings=tuple(found),
            published=sum(self._counts.values()),
            journaled=len(self._journal),
            explained=explained,
            delivered={name: len(reader.delivered) for name, reader in self._readers.items()},
        )

    # --- the journal -----------------------------------------------------------------------------

    def _read_journal(self, found: list[Finding]) -> tuple[dict[str, dict[int, bytes]], dict[str, list[range]], dict[int, str]]:
        """Bodies by source and seq, ranges of seqs in gap events, topics by offset; finds what is wrong with the order."""
        seqs: dict[str, dict[int, bytes]] = {}
        gaps: dict[str, list[range]] = {}
        topics: dict[int, str] = {}
        newest: dict[str, int] = {}
        for (before, _), (offset, _) in pairwise(self._journal):
            if offset == before:
                found.append(_finding("duplicated", "journal", f"offset {offset} is there twice"))
            elif offset < before:
                found.append(_finding("disordered", "journal", f"offset {offset} comes after {before}"))
        for offset, body in self._journal:
            try:
                event = events.decode(body, offset)
            except msgspec.DecodeError as error:
                found.append(_finding("unreadable", "journal", f"offset {offset}: {error}"))
                continue
            topics[offset] = wire.topic(event.kind, event.run)
            if isinstance(event, events.Gap):
                gaps.setdefault(event.missing_source, []).append(range(event.first_seq, event.last_seq + 1))
            if event.seq < 0:
                continue  # the broker's own, which belongs to no sequence
            label = f"seq {event.seq} of source {event.source} (offset {offset})"
            mine = seqs.setdefault(event.source, {})
            if event.seq in mine:
                found.append(_finding("duplicated", "journal", f"{label} is there again"))
            elif event.seq < newest.get(event.source, -1):
                found.append(_finding("disordered", "journal", f"{label} comes after seq {newest[event.source]}"))
            mine[event.seq] = body
            newest[event.source] = max(event.seq, newest.get(event.source, -1))
        return seqs, gaps, topics

    def _check_source(self, source: str, journaled: Mapping[int, bytes], gaps: list[range], found: list[Finding]) -> int:
        """One source's events against the journal; returns how many are missing with a gap event."""
        count, bodies = self._counts[source], self._bodies[source]
        missing = [seq for seq in range(count) if seq not in journaled]
        unexplained = [seq for seq in missing if not any(seq in gap for gap in gaps)]
        found += [
            _finding(
                "lost",
                "journal",
                f"{_spell(first, last)} of source {source}: published, not there, and no gap event says why",
                last - first + 1,
            )
            for first, last in _ranges(unexplained)
        ]
        found += [
            _finding(
                "invented", "journal", f"{_spell(first, last)} of source {source}: there, but only {count} were published", last - first + 1
            )
            for first, last in _ranges(seq for seq in sorted(journaled) if seq >= count)
        ]
        found += [
            _finding("invented", "journal", f"a gap event says that seq {seq} of source {source} is missing, but it is there")
            for seq in sorted(journaled)
            if any(seq in gap for gap in gaps)
        ]
        found += [
            _finding("changed", "journal", f"seq {seq} of source {source} is not what was published")
            for seq, body in bodies.items()
            if seq in journaled and journaled[seq] != body
        ]
        return len(missing) - len(unexplained)

    # --- readers ---------------------------------------------------------------------------------

    def _check_reader(self, name: str, reader: _Reader, topics: Mapping[int, str], found: list[Finding]) -> None:
        bodies = dict(self._journal)
        end = reader.upto if reader.upto is not None else max(bodies, default=-1)
        wanted = [offset for offset, topic in sorted(topics.items()) if reader.after < offset <= end and reader.choice.matches(topic)]
        seen: set[int] = set()
        newest = reader.after
        for offset, body in reader.delivered:
            if offset not in topics or not reader.choice.matches(topics[offset]):
                found.append(_finding("invented", name, f"offset {offset} was delivered, but is not in the journal or was not asked for"))
            elif body != bodies[offset]:
                found.append(_finding("changed", name, f"offset {offset} is not what the journal holds"))
            if not reader.at_least_once:
                if offset in seen:
                    found.append(_finding("duplicated", name, f"offset {offset} was delivered again"))
                elif offset < newest:
                    found.append(_finding("disordered", name, f"offset {offset} came after {newest}"))
            elif offset > newest and (following := bisect_right(wanted, newest)) < len(wanted) and wanted[following] < offset:
                # After a restart events come again from the cursor on, but nobody may run ahead over one that he never had.
                found.append(_finding("disordered", name, f"offset {offset} came before {wanted[following]}, which had not been delivered"))
            seen.add(offset)
            newest = max(newest, offset)
        found += [
            _finding("lost", name, f"offsets {_spell_offsets(run)} are in the journal and were never delivered", len(run))
            for run in _runs(wanted, seen)
        ]


def _finding(kind: Kind, where: str, what: str, count: int = 1) -> Finding:
    return Finding(kind=kind, where=where, what=what, count=count)


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def _runs(wanted: Iterable[int], seen: set[int]) -> list[list[int]]:
    """The wanted offsets that were not seen, in runs that no seen one interrupts."""
    runs: list[list[int]] = []
    broken = True
    for offset in wanted:
        if offset in seen:
            broken = True
        elif broken:
            runs.append([offset])
            broken = False
        else:
            runs[-1].append(offset)
    return runs


def _spell(first: int, last: int) -> str:
    return f"seq {first}" if first == last else f"seqs {first} to {last}"


def _spell_offsets(run: list[int]) -> str:
    return str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]} ({len(run)} of them)"
