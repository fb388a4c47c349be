"""A run's curves with the findings on them: one HTML (or SVG) file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite
from pathlib import Path

from msgspec import Struct, field

from trainbus.bus import events
from trainbus.errors import DataError
from trainbus.plugins.anomaly.backtest.findings import FoundLine
from trainbus.plugins.anomaly.observations import observations

WIDTH, HEIGHT, LEFT, TOP = 1100, 300, 70, 26
COLOURS = {"info": "#2b7bba", "warning": "#d98200", "critical": "#c62828"}
LINES = ("#1f4e79", "#b3541e", "#3b7a3b", "#6a3d9a")


class Chart(Struct):
    """The curves of one history, by series."""

    title: str
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def note(self, history: Iterable[events.AnyEvent]) -> None:
        """Take all numbers of a history in."""
        for event in history:
            for one in observations(event):
                self.series.setdefault(one.metric, []).append((one.step, one.value))


def write(path: Path, charts: Sequence[tuple[Chart, Sequence[FoundLine]]]) -> None:
    """Draw every chart to ``path``, an HTML or (for one chart) SVG file.

    Raises:
        DataError: The ending is neither, or the file can't be written.
    """
    ending = path.suffix.lower()
    if ending not in (".html", ".htm", ".svg") or (ending == ".svg" and len(charts) != 1):
        hint = "Name a file that ends in .html; one history can also be drawn to .svg."
        raise DataError(f"{path} can't hold the drawing.", hint=hint, file=str(path), allowed=".html, .svg")
    parts = [part for chart, found in charts for part in _figure(chart, found, page=ending != ".svg")]
    text = "".join(parts) if ending == ".svg" else _PAGE.format(body="\n".join(parts))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror}.", hint="Name another file.", file=str(path)) from error


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>trainbus backtest</title><style>body{{font:14px system-ui,sans-serif;'
    "margin:24px;max-width:1180px;color:#222;background:#fff}}table{{border-collapse:collapse;margin:8px 0 32px}}td,th{{padding:3px 10px;"
    "text-align:left;border-bottom:1px solid #ddd;vertical-align:top}}svg{{max-width:100%;height:auto}}</style>{body}</html>"
)


def _figure(chart: Chart, found: Sequence[FoundLine], *, page: bool) -> list[str]:
    wanted: list[str] = [name for name in ("loss", "eval/loss") if name in chart.series]
    metrics = [wanted] if wanted else []
    metrics += [[name] for name in dict.fromkeys(line.metric for line in found) if name in chart.series and name not in wanted]
    drawn = [_svg(chart, names, found) for names in metrics] or [_svg(chart, list(chart.series)[:1], found)]
    if not page:
        return drawn[:1]
    return [f"<h2>{escape(chart.title)}</h2>", *drawn, _table(found)]


def _svg(chart: Chart, names: Sequence[str], found: Sequence[FoundLine]) -> str:
    points = [point for name in names for point in chart.series.get(name, ())]
    finite = sorted(value for _, value in points if isfinite(value))
    if not finite:
        return ""
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = finite[0], finite[min(len(finite) - 1, int(0.998 * len(finite)))]
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    inner_width, inner_height = WIDTH - LEFT - 10, HEIGHT - TOP - 24

    def x(step: int) -> float:
        return LEFT + inner_width * (step - first) / max(last - first, 1)

    def y(value: float) -> float:
        return TOP + inner_height * (1 - (min(max(value, low), high) - low) / (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text x="{LEFT}" y="16" font-size="13">{escape(", ".join(names))}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        value, step = low + share * (high - low), round(first + share * (last - first))
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eee"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
            f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{step:,}</text>'
        )
    for line in found:
        if line.metric in names or (line.metric not in chart.series and "loss" in names):
            left, right = x(min(max(line.start_step, first), last)), x(min(max(line.end_step, first), last))
            colour, said = COLOURS[line.severity], x(line.step)
            parts.append(
                f'<rect x="{left - 1:.1f}" y="{TOP}" width="{max(right - left, 2):.1f}" height="{inner_height}" fill="{colour}"'
                f' opacity="0.18"/><line x1="{said:.1f}" x2="{said:.1f}" y1="{TOP}" y2="{TOP + inner_height}"'
                f' stroke="{colour}"><title>{escape(f"{line.rule}: {line.message}")}</title></line>'
            )
    for number, name in enumerate(names):
        line_points = _thin(chart.series.get(name, []), inner_width)
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line_points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{LINES[number % len(LINES)]}" stroke-width="1"/>')
    return "".join([*parts, "</svg>"])


def _thin(points: Sequence[tuple[int, float]], buckets: int) -> list[tuple[int, float]]:
    """At most four points a pixel column: the first, lowest, highest and last, so that no outlier is lost."""
    finite = [point for point in points if isfinite(point[1])]
    size = max(1, len(finite) // buckets)
    if size <= 4:
        return finite
    thin: list[tuple[int, float]] = []
    for start in range(0, len(finite), size):
        some = finite[start : start + size]
        low, high = min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])
        thin += sorted({some[0], low, high, some[-1]})
    return thin


def _table(found: Sequence[FoundLine]) -> str:
    if not found:
        return "<p>Nothing was found.</p>"
    rows = "".join(
        f'<tr><td style="color:{COLOURS[line.severity]}">{line.severity}</td><td>{line.step:,}</td><td>{escape(line.rule)}</td>'
        f"<td>{escape(line.metric)}</td><td>{escape(line.message)}</td></tr>"
        for line in found
    )
    return f"<table><tr><th>severity</th><th>step</th><th>rule</th><th>series</th><th>what</th></tr>{rows}</table>"
