"""``trainbus backtest``: the anomaly rules over recorded histories, and their score where there are labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.text import Text

from trainbus.bus import config_file
from trainbus.bus.events import AnyEvent, Eval, Severity, Step
from trainbus.cli.app import UsageError
from trainbus.cli.options import config_options, json_option
from trainbus.cli.output import NOTHING, json_line, note, number, print_table, progress, state, stdout, table
from trainbus.plugins.anomaly.backtest import plot as drawing
from trainbus.plugins.anomaly.backtest import scoring
from trainbus.plugins.anomaly.backtest.findings import FoundLine, backtest
from trainbus.plugins.anomaly.backtest.labels import NAMES, beside, read_labels
from trainbus.plugins.anomaly.config import AnomalyConfig, Preset
from trainbus.plugins.anomaly.detector import KINDS
from trainbus.plugins.anomaly.incidents import RANK
from trainbus.sources.histories import FORMATS, read
from trainbus.sources.tensorboard import PATTERN

SECTION = "plugin.anomaly"


@click.command(name="backtest")
@click.argument("histories", nargs=-1, required=True, metavar="HISTORY...")
@config_options
@click.option("--preset", type=click.Choice(get_args(Preset)), help="Which rules are on. Default: as configured.")
@click.option("--severity", type=click.Choice(get_args(Severity)), default="info", show_default=True, help="Show findings from here on.")
@click.option("--labels", "labels_path", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Score against these labels.")
@click.option("--no-labels", is_flag=True, help="Don't look for labels beside the histories.")
@click.option("--scores", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the scores as JSON.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw curves and findings: .html or .svg.")
@click.option("--against", "against_path", type=click.Path(path_type=Path, dir_okay=False), help="Compare with this configuration.")
@click.option("--against-set", multiple=True, metavar="KEY=VALUE", help="Compare with this setting changed. Repeatable.")
@json_option
def command(
    histories: tuple[str, ...],
    config_path: Path | None,
    overrides: tuple[str, ...],
    preset: str | None,
    severity: Severity,
    labels_path: Path | None,
    no_labels: bool,
    scores: Path | None,
    plot: Path | None,
    against_path: Path | None,
    against_set: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the anomaly rules over recorded histories.

    HISTORY is a CSV or JSONL log, transformers' trainer_state.json, a TensorBoard folder, a folder of logs, or the id of a run in the
    journal. What is printed is what the anomaly plugin says live with the same configuration (with --set, e.g.
    --set plugin.anomaly.rules.loss_spike.threshold=0.5).

    Where labels lie beside the logs (labels.json, manifest.json), recall, precision, delay and false alarms are printed, too. --json gives
    one object a finding.
    """
    config = _config(config_path, overrides, preset)
    other = _config(against_path or config_path, (*overrides, *against_set), preset) if against_path or against_set else None
    sources = [source for text in histories for source in _sources(text)]
    labels_file = None if no_labels else labels_path or beside([Path(text) for text in histories if Path(text).exists()])
    labelled = read_labels(labels_file) if labels_file else {}
    if scores and not labelled:
        raise UsageError("--scores needs labels.", hint=f"Name them with --labels, or put {NAMES[0]} beside the logs.")

    found: list[FoundLine] = []
    changed: list[FoundLine] = []
    scored: list[scoring.FileScore] = []
    charts: list[tuple[drawing.Chart, list[FoundLine]]] = []
    with progress("backtest", total=len(sources)) as bar:
        for source in sources:
            history = list(_events(source))
            lines = backtest(source, history, config)
            shown = [line for line in lines if RANK[line.severity] >= RANK[severity]]
            found += shown
            if other is not None:
                changed += [line for line in backtest(source, history, other) if RANK[line.severity] >= RANK[severity]]
            if Path(source).name in labelled:
                steps = sorted({event.step for event in history if isinstance(event, Step | Eval)})
                scored.append(scoring.score(labelled[Path(source).name], lines, steps))
            if plot is not None:
                chart = drawing.Chart(source)
                chart.note(history)
                charts.append((chart, shown))
            bar.advance(bar.task_ids[0])
    if plot is not None:
        drawing.write(plot, charts)
        note(f"{plot}: {len(charts)} histories")
    if scores is not None:
        _write_scores(scores, scored)
    if other is not None:
        _show_comparison(found, changed, as_json)
    elif as_json:
        for line in found:
            click.echo(json_line(line))
    else:
        _show(found, len(sources))
    if scored and not as_json:
        _show_scores(scored)


def _config(path: Path | None, overrides: Sequence[str], preset: str | None) -> AnomalyConfig:
    chosen = config_file.load(path, overrides=overrides).section(SECTION, AnomalyConfig)
    return msgspec.structs.replace(chosen, preset=preset) if preset else chosen


def _sources(text: str) -> list[str]:
    """What one argument stands for: itself, or the logs of a folder."""
    path = Path(text)
    if not path.is_dir() or (path / "trainer_state.json").is_file() or any(path.rglob(PATTERN)):
        return [text]
    logs = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in FORMATS and file.name not in NAMES)
    if not logs:
        raise UsageError(f"{path} holds no log.", hint=f"Logs end in {', '.join(FORMATS)}.", file=str(path))
    return logs


def _events(source: str) -> Iterable[AnyEvent]:
    path = Path(source)
    if path.exists() or path.suffix.lower() in FORMATS or len(path.parts) > 1:
        return read(path)
    return _journal(source)


def _journal(run: str) -> Iterator[AnyEvent]:
    from trainbus.bus.client import Client  # only here: files need no broker
    from trainbus.cli.history import known_run

    with Client() as client:
        yield from client.events(runs=[known_run(client, run).run], kinds=KINDS)


def _show(found: Sequence[FoundLine], histories: int) -> None:
    console = stdout()
    file = ""
    for line in found:
        if line.file != file:
            file = line.file
            console.print(Text(file, style="bold"))
        console.print(Text.assemble("  ", state(line.severity), f" step {line.step:,} ", (line.rule, "bold"), f"  {line.message}"))
        evidence = ", ".join(f"{name} {number(value)}" for name, value in line.evidence.items() if isinstance(value, int | float))
        if line.start_step != line.end_step:
            evidence = f"steps {line.start_step:,} to {line.end_step:,}, {evidence}"
        console.print(Text(f"      {evidence}", style="dim"))
    counts = {one: sum(line.severity == one for line in found) for one in ("critical", "warning", "info")}
    said = ", ".join(f"{count} {one}" for one, count in counts.items() if count) or "nothing found"
    console.print(f"{histories} {'history' if histories == 1 else 'histories'}: {said}")


def _show_comparison(found: Sequence[FoundLine], changed: Sequence[FoundLine], as_json: bool) -> None:
    def key(line: FoundLine) -> tuple[str, str, str, int]:
        return line.file, line.rule, line.metric, line.start_step

    first, second = {key(line): line for line in found}, {key(line): line for line in changed}
    only_first = [line for name, line in first.items() if name not in second]
    only_second = [line for name, line in second.items() if name not in first]
    if as_json:
        for where, lines in (("both", [line for name, line in first.items() if name in second]), ("a", only_first), ("b", only_second)):
            for line in lines:
                click.echo(json_line({"in": where, **msgspec.structs.asdict(line)}))
        return
    rows = [
        (mark, line.file, line.severity, f"{line.step:,}", line.rule, line.message)
        for mark, lines in (("-", only_first), ("+", only_second))
        for line in lines
    ]
    print_table(table("", "history", "severity", "step", "rule", "message", rows=rows, right=["step"]), empty="Both say the same.")
    stdout().print(f"{len(first.keys() & second.keys())} in both, {len(only_first)} only before (-), {len(only_second)} only after (+)")


def _show_scores(scored: Sequence[scoring.FileScore]) -> None:
    whole = scoring.total(scored)
    rows = []
    for confidence in ("high", "medium"):
        recall, strict = whole.recall(confidence), whole.recall(confidence, strict=True)
        delays = sorted(
            hit.delay_points for one in scored for hit in one.hits if hit.label.confidence == confidence and hit.delay_points is not None
        )
        middle = delays[len(delays) // 2] if delays else None
        rows.append((confidence, str(whole.labels.get(confidence, 0)), _share(recall), _share(strict), number(middle)))
    stdout().print(table("labels", "count", "recall", "of the same kind", "median delay (points)", rows=rows, right=["count", "recall"]))
    rules = [(rule, str(right), str(false)) for rule, (right, false) in scoring.by_rule(scored).items()]
    stdout().print(table("rule", "right", "false", rows=rules, right=["right", "false"]))
    kinds = [(kind, str(count), _share(hit / count), number(delay)) for kind, (count, hit, delay) in scoring.by_kind(scored).items()]
    stdout().print(table("kind", "labels", "recall", "median delay (points)", rows=kinds, right=["labels", "recall"]))
    for one in scored:
        for hit in one.hits:
            if hit.delay_steps is None:
                label = hit.label
                note(f"missed: {one.file}, {label.kind} ({label.confidence}), steps {label.start_step:,} to {label.end_step:,}")
        for line in one.false:
            note(f"false: {one.file}, {line.rule} at step {line.step:,}: {line.message}")
    stdout().print(
        f"precision {_share(whole.precision)}, {whole.false_alerts} false alerts in {whole.quiet_points:,} points outside of labels"
        f" ({whole.false_in_10000:.2f} in 10,000)"
    )


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _write_scores(path: Path, scored: Sequence[scoring.FileScore]) -> None:
    whole = scoring.total(scored)
    content: dict[str, Any] = {
        "recall": {confidence: whole.recall(confidence) for confidence in ("high", "medium")},
        "recall_same_kind": {confidence: whole.recall(confidence, strict=True) for confidence in ("high", "medium")},
        "precision": whole.precision,
        "false_alerts": whole.false_alerts,
        "false_in_10000": whole.false_in_10000,
        "points": whole.points,
        "quiet_points": whole.quiet_points,
        "rules": scoring.by_rule(scored),
        "kinds": scoring.by_kind(scored),
        "files": scored,
    }
    path.write_text(json_line(content) + "\n", encoding="utf-8")
