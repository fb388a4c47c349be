"""What the anomaly plugin costs an event with all rules on, and what it keeps: the limit is 50 µs, and memory does not grow.

Run: python -m benchmarks anomaly_cost
"""

import random
import time

import msgspec

from benchmarks.frame import Bar, Result, Table
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


def bench(quick):
    """Both cases, beside the limit."""
    steps = 10_000 if quick else 100_000
    everything = msgspec.convert({name: {"metrics": ["*"]} for name in RulesConfig.__struct_fields__}, RulesConfig)
    rows, bars = [], []
    for name, config in (("default metrics", RulesConfig()), ("every rule on all ten metrics", everything)):
        cost, tenth, end = measure(steps, config)
        rows.append([name, cost, tenth, end])
        bars.append(Bar(f"{name}, an event", cost, LIMIT_US, "µs"))
    columns = ["rules", "µs an event", "bytes of state after a tenth", "at the end"]
    about = f"Processor time for feeding {steps:,} steps of ten metrics and storing the state after each, as the plugin does."
    return Result("Anomaly detection", about, [Table("one step event with ten metrics", columns, rows)], bars)
