"""What the anomaly plugin costs an event with all rules on, and what it keeps: the limit is 50 µs, and memory does not grow.

Run: python benchmarks/anomaly_cost.py [--steps 100000] [--json]
"""

import argparse
import json
import random
import time

import msgspec

from trainbus.bus.events import Step
from trainbus.plugins.anomaly.config import RulesConfig
from trainbus.plugins.anomaly.detector import Detector

LIMIT_US = 50.0
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


def measure(steps, config):
    """Mean µs for feeding one step of ten metrics and storing its state, as the plugin does; size of that state in bytes.

    Processor time: what other programs do meanwhile is not counted, nor is the making of the events, which happens between batches.
    """
    noise, detector = random.Random(7), Detector(config)
    spent, size_at_tenth = 0.0, 0
    for first in range(0, steps, 1_000):
        batch = [
            Step(run="r", step=step, time=step, metrics={name: 1 + noise.gauss(0, 0.1) for name in METRICS})
            for step in range(first, first + 1_000)
        ]
        began = time.process_time()
        for event in batch:
            detector.feed(event)
            state = detector.dump("r")
        spent += time.process_time() - began
        if first == steps // 10 // 1_000 * 1_000:
            size_at_tenth = len(state)
    return spent / steps * 1e6, size_at_tenth, len(state)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    everything = msgspec.convert({name: {"metrics": ["*"]} for name in RulesConfig.__struct_fields__}, RulesConfig)
    for name, config in (("default metrics", RulesConfig()), ("every rule on all ten metrics", everything)):
        cost, tenth, end = measure(arguments.steps, config)
        rows.append(
            {
                "case": name,
                "us_per_event": round(cost, 1),
                "of_limit": round(cost / LIMIT_US, 2),
                "state_at_10%": tenth,
                "state_at_end": end,
            }
        )
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['case']:<30} {row['us_per_event']:>6.1f} µs an event = {row['of_limit']:.2f} x the limit of {LIMIT_US:.0f} µs; "
            f"state {row['state_at_10%']:,} bytes after a tenth, {row['state_at_end']:,} at the end"
        )


if __name__ == "__main__":
    main()
