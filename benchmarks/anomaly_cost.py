"""What the anomaly plugin costs an event, and what it keeps: the limit is 50 µs, and memory does not grow.

Run: python benchmarks/anomaly_cost.py [--steps 50000] [--json] [--profile]

An event is a step of ten metrics. Measured is what the plugin does with it: all rules, running figures, publishing into memory, and its
share of encoding the state, which the host does when it commits the cursor (here every hundred events; the host commits at most a few
times a second).
"""

import argparse
import cProfile
import json
import pstats
import random
import statistics
import time

from trainbus.bus.events import Step
from trainbus.plugins.anomaly.config import AnomalyConfig
from trainbus.plugins.anomaly.memory import encode
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.testing.context import MemoryContext

LIMIT_US = 50.0
COMMIT_EVERY = 100
ROUND = 10
"""Batches of a thousand events in a round: the figure is the median of the quietest round."""
METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "accuracy",
    "entropy",
    "epoch_loss",
    "lr_scale",
    "memory",
    "step_time",
)


class Silent(MemoryContext):
    """Publishing is the bus's cost, not the detector's."""

    def publish(self, event):
        pass


def measure(steps, config):
    """µs an event: median of the batches of the quietest round, and of all; size of the state after a tenth and at the end.

    Processor time: what other programs do meanwhile is not counted, nor is the making of the events, which happens between batches.
    Others on the same core still slow it down (caches, hyperthreads, clock), hence the quietest round.
    """
    noise, plugin, context = random.Random(7), AnomalyPlugin(), Silent(config=config)
    plugin.start(context)
    spent, sizes = [], []
    for first in range(0, steps, 1_000):
        batch = [
            Step(
                run="r",
                step=step,
                time=(step + 1) * 10**9,
                metrics={name: 1 + noise.gauss(0, 0.05) for name in METRICS} | {"learning_rate": 1e-4},
            )
            for step in range(first, first + 1_000)
        ]
        began = time.process_time()
        for number, event in enumerate(batch):
            plugin.on_step(event, context)
            if number % COMMIT_EVERY == 0:
                state = encode(plugin.detector.runs["r"])
        spent.append((time.process_time() - began) / len(batch) * 1e6)
        sizes.append(len(state))
    rounds = [statistics.median(spent[first : first + ROUND]) for first in range(0, len(spent), ROUND)]
    return min(rounds), statistics.median(spent), sizes[len(sizes) // 10], sizes[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true", help="Show where the time goes, with all rules on.")
    arguments = parser.parse_args()
    cases = {
        "default preset": AnomalyConfig(),
        "all rules of both presets": AnomalyConfig(preset="both"),
    }
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(measure, min(arguments.steps, 20_000), cases["all rules of both presets"])
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    rows = []
    for name, config in cases.items():
        cost, median, tenth, end = measure(arguments.steps, config)
        row = {
            "case": name,
            "rules": len(config.active_rules()),
            "us_per_event": round(cost, 1),
            "median_of_all": round(median, 1),
            "of_limit": round(cost / LIMIT_US, 2),
        }
        rows.append(row | {"state_at_10%": tenth, "state_at_end": end})
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['case']:<26} {row['rules']:>2} rules {row['us_per_event']:>6.1f} µs an event (median of all {row['median_of_all']:.1f})"
            f" = {row['of_limit']:.2f} x the limit of {LIMIT_US:.0f} µs; state {row['state_at_10%']:,} bytes after a tenth,"
            f" {row['state_at_end']:,} at the end"
        )


if __name__ == "__main__":
    main()
