"""The detector on labelled real logs: recall, false alarms, and cross-validation by repository.

Run: python benchmarks/anomaly_labelled.py LOGS [--json FILE]

LOGS is a folder with logs and labels beside them. First the defaults are scored on everything and on each repository. Then, for each
repository, the main thresholds are chosen anew on all others, from a grid about the defaults, and scored on the one that was left
out: what the detector would have reached there, had nobody seen it. The choice is the one with the highest recall of high and medium labels
together among those with at most one false alert in 10,000 points; of equal ones the nearest to the defaults.
"""

import argparse
import itertools
import json
from pathlib import Path

import msgspec

from trainbus.bus.events import Eval, Step
from trainbus.plugins.anomaly.backtest import scoring
from trainbus.plugins.anomaly.backtest.findings import backtest
from trainbus.plugins.anomaly.backtest.labels import beside, read_labels
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.sources.histories import read

GRID = {
    ("loss_spike", "threshold"): (0.2, 0.25, 0.3),
    ("loss_spike", "deviations"): (5.0, 6.0, 8.0),
    ("divergence", "threshold"): (0.05, 0.07, 0.1),
    ("grad_spike", "factor"): (4.0, 4.5, 5.0),
}
ALLOWED = 1.0
"""False alerts in 10,000 points."""


def settings(values):
    rules = {}
    for (rule, key), value in zip(GRID, values, strict=True):
        rules.setdefault(rule, {})[key] = value
    return msgspec.convert({"rules": rules}, AnomalyConfig)


def scores_of(config, runs):
    return [scoring.score(run, backtest(run.file, history, config), steps) for run, history, steps in runs]


def shown(scores):
    whole = scoring.total(scores)
    return {
        "high": whole.recall("high"),
        "high_count": whole.labels.get("high", 0),
        "medium": whole.recall("medium"),
        "medium_count": whole.labels.get("medium", 0),
        "same_kind_high": whole.recall("high", strict=True),
        "same_kind_medium": whole.recall("medium", strict=True),
        "false": whole.false_alerts,
        "false_in_10000": round(whole.false_in_10000, 2),
        "points": whole.quiet_points,
    }


def line(name, row):
    def share(value):
        return "-" if value is None else f"{value:.3f}"

    return (
        f"| {name} | {share(row['high'])} of {row['high_count']} | {share(row['medium'])} of {row['medium_count']}"
        f" | {row['false']} in {row['points']:,} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs = []
    for name, run in read_labels(beside([arguments.logs])).items():
        history = list(read(arguments.logs / name))
        runs.append((run, history, sorted({event.step for event in history if isinstance(event, Step | Eval)})))
    groups = sorted({run.group for run, _, _ in runs})
    defaults = scores_of(AnomalyConfig(), runs)
    result = {"defaults": shown(defaults), "by_repository": {}, "left_out": {}, "chosen": {}}
    print("| defaults on | recall of high | recall of medium | false alerts |\n| --- | --- | --- | --- |")
    print(line("everything", result["defaults"]))
    for group in groups:
        result["by_repository"][group] = row = shown([one for one in defaults if one.group == group])
        print(line(group, row))

    tried = {values: scores_of(settings(values), runs) for values in itertools.product(*GRID.values())}
    middle = tuple(options[1] for options in GRID.values())

    def merit(values, group):
        whole = scoring.total(one for one in tried[values] if one.group != group)
        found = sum(whole.hit.values()) / max(1, sum(whole.labels.values()))
        return (whole.false_in_10000 <= ALLOWED, found, sum(one == other for one, other in zip(values, middle, strict=True)))

    out = []
    print("\n| left out | recall of high | recall of medium | false alerts |\n| --- | --- | --- | --- |")
    for group in groups:
        chosen = max(tried, key=lambda values, group=group: merit(values, group))
        left = [one for one in tried[chosen] if one.group == group]
        out += left
        result["left_out"][group], result["chosen"][group] = shown(left), dict(zip(map(".".join, GRID), chosen, strict=True))
        print(line(group, result["left_out"][group]))
    result["cross_validated"] = shown(out)
    print(line("all, each when left out", result["cross_validated"]))
    spread = [scoring.total(scores) for scores in tried.values()]
    for confidence in ("high", "medium"):
        recalls = [one.recall(confidence) for one in spread]
        result[f"grid_{confidence}"] = [min(recalls), max(recalls)]
        print(f"over all {len(tried)} settings of the grid, recall of {confidence}: {min(recalls):.3f} to {max(recalls):.3f}")
    false = [one.false_in_10000 for one in spread]
    result["grid_false_in_10000"] = [min(false), max(false)]
    print(f"false alerts in 10,000 points: {min(false):.2f} to {max(false):.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
