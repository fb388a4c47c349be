"""Incidents injected into healthy real logs at seeded places: what the detector finds, beside five published rules.

Run: python benchmarks/anomaly_synthetic.py LOGS [--seed 1] [--places 2] [--json FILE]

LOGS is a folder with CSV logs and the labels beside them (manifest.json); only runs without any label are used. Each rule is judged twice:
with the parameters under which it is known, and with its threshold raised until it gives no more false alarms on these logs than
the detector does. Rules see the same values; repeated alarms within ten values count as one. A finding counts from the first changed value
to the end of the change, or up to 20 values after its beginning.
"""

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from pathlib import Path

from trainbus.bus.events import Eval, Step
from trainbus.plugins.anomaly.backtest.findings import backtest
from trainbus.plugins.anomaly.backtest.labels import beside, read_labels
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.sources.histories import read

BEFORE, AFTER = 1_200, 600
"""Values around the place of an injection that are looked at; enough for every window."""
LATE = 20
JOIN = 10
SHORTEST = 150


class Twice:
    """``x > 2 * mean of the last 10``: a common check in training loops."""

    name, default, window = "2 x mean of 10", 2.0, 10

    def alarm(self, window, value, threshold):
        mean = statistics.fmean(window)
        return mean > 0 and value > threshold * mean


class FiveMean(Twice):
    """``x > 1.3 * mean of the last 5``: the monitor that this project replaces."""

    name, default, window = "1.3 x mean of 5", 1.3, 5


class Sigma:
    """``x > mean + 6 sigma of the last 128``: the spike check of several pretraining stacks."""

    name, default, window = "mean + 6 sigma of 128", 6.0, 128

    def alarm(self, window, value, threshold):
        mean = statistics.fmean(window)
        sigma = math.dist(window, [mean] * len(window)) / math.sqrt(len(window))
        return sigma > 0 and abs(value - mean) > threshold * sigma and (value > mean or self.both)

    both = False


class ZScore(Sigma):
    """``|z| > 3 over the last 30``."""

    name, default, window = "z-score 3 over 30", 3.0, 30
    both = True


class Mad:
    """``0.6745 * |x - median| / MAD > 6 over the last 30``: the modified z-score of Iglewicz and Hoaglin."""

    name, default, window = "modified z 6 over 30", 6.0, 30

    def alarm(self, window, value, threshold):
        median = statistics.median(window)
        mad = statistics.median(abs(one - median) for one in window)
        return mad > 0 and 0.6745 * abs(value - median) / mad > threshold


PEERS = (Twice(), FiveMean(), Sigma(), ZScore(), Mad())


def alarms(peer, values, threshold):
    """Places of a rule's alarms on one series; its baseline excludes the value under test."""
    found, window = [], []
    for place, value in enumerate(values):
        if len(window) >= min(peer.window, 32) and peer.alarm(window, value, threshold):
            found.append(place)
        if math.isfinite(value):  # kinder than the originals: a NaN would blind them for the whole window
            window.append(value)
            if len(window) > peer.window:
                del window[0]
    return found


def joined(places):
    """Alarms within `JOIN` values of the one before are one."""
    return sum(not index or place - places[index - 1] > JOIN for index, place in enumerate(places))


def healthy(folder):
    """Series of the runs without any label: list of (name, rows); a row is a dict."""
    labelled = read_labels(beside([folder]))
    for name, run in sorted(labelled.items()):
        if run.labels:
            continue
        rows = defaultdict(dict)
        for event in read(folder / name):
            prefix = "eval/" if isinstance(event, Eval) else ""
            rows[event.step] |= {"epoch": getattr(event, "epoch", None)} | {
                prefix + metric: value for metric, value in event.metrics.items()
            }
        series = [(step, row) for step, row in sorted(rows.items()) if "loss" in row]
        if len(series) >= SHORTEST and min(row["loss"] for _, row in series) > 0:
            yield name, series


def complete(series, noise):
    """Adds what a log lacks: a learning rate (warm-up, cosine), a gradient norm (log-normal), an accuracy on 100 questions."""
    total = len(series)
    made = []
    own = {name for name in ("learning_rate", "grad_norm") if sum(name in row for _, row in series) == total}
    for place, (step, row) in enumerate(series):
        row = dict(row)
        if "learning_rate" not in own:
            row["learning_rate"] = 3e-4 * min(1, (place + 1) / (0.03 * total)) * (0.55 + 0.45 * math.cos(math.pi * place / total))
        if "grad_norm" not in own:
            row["grad_norm"] = (0.5 + 2 * math.exp(-place / 20)) * math.exp(noise.gauss(0, 0.2))
        if place % max(1, total // 60) == 0:
            rate = 0.3 + 0.4 * (1 - math.exp(-3 * place / total))
            row["eval/accuracy"] = sum(noise.random() < rate for _ in range(100)) / 100
        made.append((step, row))
    return made


def spike(size):
    def change(rows, place, noise):
        for _, row in rows[place : place + 5]:
            row["loss"] *= size
        return 5

    return "loss", change


def divergence(rows, place, noise):
    for number, (_, row) in enumerate(rows[place:]):
        row["loss"] *= min(1 + 0.02 * number, 3)
    return len(rows) - place


def nan(rows, place, noise):
    for _, row in rows[place : place + 3]:
        row["loss"] = math.nan
    return 3


def rate(size):
    def change(rows, place, noise):
        for _, row in rows[place : place + 20]:
            row["learning_rate"] *= size
        return 20

    return "learning_rate", change


def explosion(rows, place, noise):
    rows[place][1]["grad_norm"] *= 20
    return 1


def accuracy(rows, place, noise):
    for _, row in rows[place:]:
        if "eval/accuracy" in row:
            row["eval/accuracy"] *= 0.5
    return len(rows) - place


def plateau(rows, place, noise):
    """The run stops learning after its first twentieth: the level of there, with the noise of the later values."""
    start = max(20, len(rows) // 20)
    level = statistics.median(row["loss"] for _, row in rows[start - 10 : start + 10])
    losses = [row["loss"] for _, row in rows]
    for number in range(start, len(rows)):
        near = statistics.median(losses[max(0, number - 15) : number + 16])
        rows[number][1]["loss"] = level * losses[number] / near
    return len(rows) - start


def drift(rows, place, noise):
    """Up by 40 % over 300 values."""
    for number, (_, row) in enumerate(rows[place:]):
        row["loss"] *= 1 + 0.4 * min(number / 300, 1)
    return len(rows) - place


INJECTIONS = {
    "spike x 1.3": spike(1.3),
    "spike x 2": spike(2),
    "spike x 5": spike(5),
    "divergence": ("loss", divergence),
    "nan": ("loss", nan),
    "learning rate x 10": rate(10),
    "learning rate x 100": rate(100),
    "gradient explosion": ("grad_norm", explosion),
    "accuracy drop": ("eval/accuracy", accuracy),
    "plateau": ("loss", plateau),
    "slow drift": ("loss", drift),
}


def cases(folder, seed, places):
    """(kind, metric, rows, place, length) for every injection."""
    for name, series in healthy(folder):
        for kind, (metric, change) in INJECTIONS.items():
            for number in range(places):
                noise = random.Random(f"{seed}:{name}:{kind}:{number}")
                rows = complete(series, noise)
                if kind == "plateau":
                    rows = rows[:: max(1, len(rows) // (BEFORE + AFTER))]
                    place = max(20, len(rows) // 20)
                else:
                    place = noise.randrange(len(rows) // 5, len(rows) * 9 // 10)
                    first = max(0, place - BEFORE)
                    rows, place = rows[first : place + AFTER], place - first
                    if kind == "accuracy drop":  # few evaluations: the whole run, thinned
                        rows = complete(series, noise)[:: max(1, len(series) // 600)]
                        rows = [
                            (step, dict(row))
                            for step, row in complete([(s, {k: v for k, v in r.items() if k != "eval/accuracy"}) for s, r in rows], noise)
                        ]
                        place = noise.randrange(len(rows) // 4, len(rows) * 3 // 4)
                rows = [(step, dict(row)) for step, row in rows]
                yield kind, metric, rows, place, change(rows, place, noise)


def events_of(rows):
    for step, row in rows:
        train = {name: value for name, value in row.items() if not name.startswith("eval/") and name != "epoch"}
        yield Step(run="r", step=step, epoch=row.get("epoch"), metrics=train)
        evaluation = {name[5:]: value for name, value in row.items() if name.startswith("eval/")}
        if evaluation:
            yield Eval(run="r", step=step, metrics=evaluation)


def calibrate(peer, curves, allowed):
    """The lowest multiple of the default threshold with which a rule gives no more false alarms than ``allowed``."""
    factor = 1.0
    while sum(joined(alarms(peer, values, peer.default * factor)) for values in curves) > allowed and factor < 1e3:
        factor *= 1.15
    return peer.default * factor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--places", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = AnomalyConfig()

    curves = [[row["loss"] for _, row in series] for _, series in healthy(arguments.logs)]
    points = sum(map(len, curves))
    false = 0
    for name, series in healthy(arguments.logs):
        found = backtest(name, events_of(series), config)
        false += len({line.alert for line in found if line.severity != "info"})
    calibrated = {peer.name: calibrate(peer, curves, false) for peer in PEERS}
    peer_false = {peer.name: sum(joined(alarms(peer, values, peer.default)) for values in curves) for peer in PEERS}

    hits, counts, delays = defaultdict(lambda: defaultdict(int)), defaultdict(int), defaultdict(list)
    for kind, metric, rows, place, length in cases(arguments.logs, arguments.seed, arguments.places):
        counts[kind] += 1
        last = max(place + length, place + LATE)
        order = {step: number for number, (step, _) in enumerate(rows)}
        inside = [
            order[line.step]
            for line in backtest("r", events_of(rows), config)
            if line.severity != "info" and place <= order[line.step] <= last
        ]
        if inside:
            hits["trainbus"][kind] += 1
            delays[kind].append(min(inside) - place)
        logged = [number for number, (_, row) in enumerate(rows) if metric in row]
        values = [rows[number][1][metric] for number in logged]
        for peer in PEERS:
            for threshold, label in ((peer.default, peer.name), (calibrated[peer.name], f"{peer.name}, no more false")):
                hits[label][kind] += any(place <= logged[found] <= last for found in alarms(peer, values, threshold))

    columns = ["trainbus", *(peer.name for peer in PEERS), *(f"{peer.name}, no more false" for peer in PEERS)]
    result = {
        "healthy_points": points,
        "false_alarms": {"trainbus": false, **peer_false},
        "raised_thresholds": calibrated,
        "cases": dict(counts),
        "recall": {column: {kind: hits[column][kind] / counts[kind] for kind in counts} for column in columns},
        "overall": {column: sum(hits[column].values()) / sum(counts.values()) for column in columns},
        "median_delay": {kind: statistics.median(found) for kind, found in delays.items()},
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{points:,} healthy points; false alarms: trainbus {false}, " + ", ".join(f"{name} {count}" for name, count in peer_false.items())
    )
    print(
        "\n| injected | cases | trainbus | median delay | "
        + " | ".join(peer.name for peer in PEERS)
        + " |\n|"
        + " --- |" * (4 + len(PEERS))
    )
    for kind in counts:
        cells = [f"{result['recall'][peer.name][kind]:.2f} / {result['recall'][f'{peer.name}, no more false'][kind]:.2f}" for peer in PEERS]
        print(
            f"| {kind} | {counts[kind]} | {result['recall']['trainbus'][kind]:.2f} | {result['median_delay'].get(kind, '-')} | "
            + " | ".join(cells)
            + " |"
        )
    cells = [f"{result['overall'][peer.name]:.2f} / {result['overall'][f'{peer.name}, no more false']:.2f}" for peer in PEERS]
    print(f"| all | {sum(counts.values())} | {result['overall']['trainbus']:.2f} | | " + " | ".join(cells) + " |")
    print(f"| false alarms | | {false} | | " + " | ".join(f"{peer_false[peer.name]} / at most {false}" for peer in PEERS) + " |")


if __name__ == "__main__":
    main()
