"""How long a plan over 100,000 checkpoints takes with many policies and limits: the limit is one second.

Run: python benchmarks/retention.py [--checkpoints 100000] [--json]
"""

import argparse
import json
import random
import time

import msgspec

from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import DiskState, plan
from trainbus.plugins.retention.records import Record

LIMIT_SECONDS = 1.0
HOUR = 3_600 * 10**9
SETTINGS = {
    "defaults": {},
    "three tiers": {"keep": [{"policy": "tiers", "tiers": [{"count": 20}, {"count": 20, "every": 200}, {"every": 1000}]}]},
    "every policy at once": {
        "keep_newest": 100,
        "keep_every": 1000,
        "keep": [
            {"policy": "tiers", "tiers": [{"count": 20}, {"count": 20, "every": 200}, {"every": 1000}]},
            {"policy": "steps", "every": 700, "take": "closest"},
            {"policy": "best", "metric": "accuracy", "direction": "max", "count": 50},
            {"policy": "all_of", "policies": [{"policy": "period", "each": "day"}, {"policy": "newer", "seconds": 3_000_000}]},
        ],
        "keep_across": [{"policy": "best", "metric": "loss", "count": 10}],
        "min_evaluations": 1,
        "max_bytes_per_run": 10**12,
        "max_bytes": 5 * 10**12,
        "min_free_percent": 10,
        "thin": "limits",
    },
}


def history(count):
    """Checkpoints of ten runs in no order."""
    noise = random.Random(5)
    records = [
        Record(
            f"run{number % 10}@{number}",
            f"run{number % 10}",
            number * 10,
            number * HOUR // 10,
            f"/out/run{number % 10}/checkpoint-{number * 10}",
            noise.randrange(10**9, 3 * 10**9),
            metrics={"loss": noise.random(), "accuracy": noise.random()},
            evaluations=[number],
            disposable=10**8,
        )
        for number in range(count)
    ]
    noise.shuffle(records)
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    records = history(arguments.checkpoints)
    directories = frozenset(record.path.rpartition("/")[0] for record in records)
    disk = DiskState(name="/out", total=10**15, free=9 * 10**13, directories=directories)
    rows = []
    for name, table in SETTINGS.items():
        config = msgspec.convert(table, RetentionConfig)
        times = []
        for _ in range(5):
            began = time.process_time()
            made = plan(records, config, arguments.checkpoints * HOUR // 10, {}, [disk])
            times.append(time.process_time() - began)
        rows.append(
            {"case": name, "checkpoints": len(records), "seconds": sorted(times)[2], "kept": sum(each.keep for each in made.decisions)}
        )
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        ratio = row["seconds"] / LIMIT_SECONDS
        print(f"{row['case']:<22} {row['seconds']:.3f} s for {row['checkpoints']:,} = {ratio:.2f} x the limit; {row['kept']:,} kept")


if __name__ == "__main__":
    main()
