"""Findings against labels: recall, precision, delay, false alarms.

A label is an interval of steps with a kind and a confidence. ``high`` and ``medium`` are scored; inside ``low`` a finding is neither
right nor wrong. A finding of severity warning or critical, said inside an interval or up to the larger of two logged points and 2 % of the
run after its start, is a hit for that label. All others are false, counted once for each alert. Notes (severity info) are not scored.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, field

from trainbus.plugins.anomaly.backtest.findings import FoundLine

Confidence: TypeAlias = Literal["high", "medium", "low"]
LATE_POINTS = 2
LATE_FRACTION = 0.02
SCORED = ("warning", "critical")


class Label(Struct, frozen=True):
    """A stretch that a person has judged."""

    kind: str
    start_step: int
    end_step: int
    confidence: Confidence = "high"


class LabelledRun(Struct, frozen=True):
    """Labels of one file. ``group`` is what cross-validation leaves out together: the repository."""

    file: str
    labels: tuple[Label, ...] = ()
    group: str = ""


class Hit(Struct, frozen=True):
    """What became of one scored label; ``delay`` is None when it was missed."""

    file: str
    group: str
    label: Label
    delay_steps: int | None = None
    delay_points: int | None = None
    same_kind: bool = False
    rules: tuple[str, ...] = ()


class FileScore(Struct, kw_only=True):
    """One file: its labels, the findings that were false, and how many logged points no label covers."""

    file: str
    group: str
    hits: list[Hit]
    false: list[FoundLine]
    right: list[FoundLine]
    points: int
    quiet_points: int


class Total(Struct, kw_only=True):
    """Sums over files."""

    labels: dict[str, int] = field(default_factory=dict)
    hit: dict[str, int] = field(default_factory=dict)
    same_kind: dict[str, int] = field(default_factory=dict)
    false_alerts: int = 0
    points: int = 0
    quiet_points: int = 0
    right: int = 0

    def recall(self, confidence: str, *, strict: bool = False) -> float | None:
        """Of labels of this confidence; ``strict`` asks for a finding of the label's own kind. None without such labels."""
        count = self.labels.get(confidence, 0)
        return (self.same_kind if strict else self.hit).get(confidence, 0) / count if count else None

    @property
    def false_in_10000(self) -> float:
        """False alerts in 10,000 logged points outside of labels."""
        return 1e4 * self.false_alerts / self.quiet_points if self.quiet_points else 0.0

    @property
    def precision(self) -> float | None:
        """Alerts that were right, of those that were right or false."""
        return self.right / (self.right + self.false_alerts) if self.right + self.false_alerts else None


def score(run: LabelledRun, found: Iterable[FoundLine], steps: Sequence[int]) -> FileScore:
    """Score one file.

    Args:
        run: Its labels.
        found: Its findings.
        steps: The logged steps, ascending.
    """
    scored = [line for line in found if line.severity in SCORED]
    windows = [(label, _last_step(label, steps)) for label in run.labels if label.confidence != "low"]
    ignored = [(label.start_step, label.end_step) for label in run.labels if label.confidence == "low"]
    hits = [_hit(run, label, last, scored, steps) for label, last in windows]
    covered = [(label.start_step, last) for label, last in windows]
    right = [line for line in scored if _inside(line.step, covered)]
    false = [line for line in scored if not _inside(line.step, covered) and not _inside(line.step, ignored)]
    quiet = sum(not _inside(step, covered) and not _inside(step, ignored) for step in steps)
    return FileScore(file=run.file, group=run.group, hits=hits, false=false, right=right, points=len(steps), quiet_points=quiet)


def total(scores: Iterable[FileScore]) -> Total:
    """Sums over files."""
    made = Total()
    for one in scores:
        for hit in one.hits:
            confidence = hit.label.confidence
            made.labels[confidence] = made.labels.get(confidence, 0) + 1
            made.hit[confidence] = made.hit.get(confidence, 0) + (hit.delay_steps is not None)
            made.same_kind[confidence] = made.same_kind.get(confidence, 0) + hit.same_kind
        made.false_alerts += len({line.alert for line in one.false})
        made.right += len({line.alert for line in one.right})
        made.points += one.points
        made.quiet_points += one.quiet_points
    return made


def by_rule(scores: Iterable[FileScore]) -> dict[str, tuple[int, int]]:
    """For each rule its findings that were right and that were false."""
    table: dict[str, tuple[int, int]] = {}
    for one in scores:
        for lines, place in ((one.right, 0), (one.false, 1)):
            for line in lines:
                right, false = table.get(line.rule, (0, 0))
                table[line.rule] = (right + (place == 0), false + (place == 1))
    return dict(sorted(table.items()))


def by_kind(scores: Iterable[FileScore]) -> dict[str, tuple[int, int, float | None]]:
    """For each kind of label its count, how many were hit, and the median delay in points."""
    table: dict[str, list[Hit]] = {}
    for one in scores:
        for hit in one.hits:
            table.setdefault(hit.label.kind, []).append(hit)
    made: dict[str, tuple[int, int, float | None]] = {}
    for kind, hits in sorted(table.items()):
        delays = sorted(hit.delay_points for hit in hits if hit.delay_points is not None)
        made[kind] = (len(hits), len(delays), delays[len(delays) // 2] if delays else None)
    return made


def _hit(run: LabelledRun, label: Label, last: int, scored: Sequence[FoundLine], steps: Sequence[int]) -> Hit:
    inside = [line for line in scored if label.start_step <= line.step <= last]
    if not inside:
        return Hit(run.file, run.group, label)
    first = min(line.step for line in inside)
    points = bisect_left(steps, first) - bisect_left(steps, label.start_step)
    same = any(line.kind == label.kind for line in inside)
    return Hit(run.file, run.group, label, first - label.start_step, points, same, tuple(sorted({line.rule for line in inside})))


def _last_step(label: Label, steps: Sequence[int]) -> int:
    """The last step at which a finding still counts for the label."""
    later = min(bisect_right(steps, label.start_step) - 1 + LATE_POINTS, len(steps) - 1)
    run = steps[-1] - steps[0] if steps else 0
    return max(label.end_step, steps[later], int(label.start_step + LATE_FRACTION * run))


def _inside(step: int, intervals: Sequence[tuple[int, int]]) -> bool:
    return any(first <= step <= last for first, last in intervals)
