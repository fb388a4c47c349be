"""Time in callbacks a step of transformers' Trainer: its own bookkeeping, and the same run with trainbus attached.

Both halves run interleaved in one process on the same tiny model, so that the machine's mood hits them alike; what is compared is the
time inside callbacks (and inside our four wrappers, less what they wrap), not steps per second, which are too noisy to show 1 %.

    python -m benchmarks.callback [--steps 400] [--rounds 5]

Bar: at most 15 microseconds a step beyond Trainer's own bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

BAR_MICROSECONDS = 15.0


class Stopwatch:
    """Sums the time of what it wraps, without what is wrapped inside of that."""

    def __init__(self):
        self.samples: list[float] = []
        self._step = 0.0

    def add(self, seconds):
        self._step += seconds

    def lap(self):
        self.samples.append(self._step)
        self._step = 0.0


def time_events(trainer, watch):
    """Measure every callback event of a Trainer, its dispatch included; a step ends with on_step_end."""
    handler = trainer.callback_handler
    original = handler.call_event

    def call_event(event, *args, **kwargs):
        began = time.perf_counter()
        try:
            return original(event, *args, **kwargs)
        finally:
            watch.add(time.perf_counter() - began)
            if event == "on_step_end":
                watch.lap()

    handler.call_event = call_event


def time_wrappers(callback, watch):
    """Measure what our wrappers add to the methods that they wrap."""
    for name in ("_training_step", "_grad_norm_of"):
        around = getattr(callback, name)

        def timed(original, *args, _around=around, **kwargs):
            inner = 0.0

            def counted(*a, **k):
                nonlocal inner
                began = time.perf_counter()
                result = original(*a, **k)
                inner = time.perf_counter() - began
                return result

            began = time.perf_counter()
            result = _around(counted, *args, **kwargs)
            watch.add(time.perf_counter() - began - inner)
            return result

        setattr(callback, name, timed)


def timed_into(samples, function):
    """The same function; each call's microseconds are kept."""

    def timed(*args, **kwargs):
        began = time.perf_counter()
        function(*args, **kwargs)
        samples.append(1e6 * (time.perf_counter() - began))

    return timed


def make_trainer(directory, steps):
    import torch
    import transformers

    from trainbus.trainer_node import tokens
    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
    from trainbus.trainer_node.formats import Example, Turn
    from trainbus.trainer_node.model import SMALL_QWEN3, from_config

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(256)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    examples = [Example(turns=(Turn("user", f"{i}"), Turn("assistant", f"{i}"))) for i in range(64)]
    arguments = transformers.TrainingArguments(
        output_dir=str(directory), max_steps=steps, per_device_train_batch_size=4, logging_steps=10**9, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=from_config({**SMALL_QWEN3, **shape}, tokenizer),
        args=arguments,
        train_dataset=tokens.tokenize(examples, tokenizer, 64),
        data_collator=tokens.Collator(tokenizer.pad_token_id),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def measure(directory, steps, *, attached, publishing):
    """Microseconds in callbacks of each step; those of them that ``run.step`` takes are added to ``publishing``."""
    import trainbus
    from trainbus.trainer_node.callback import TrainbusCallback

    trainer, watch = make_trainer(directory, steps), Stopwatch()
    time_events(trainer, watch)
    if attached:
        with trainbus.init("benchmark") as run:
            run.step = timed_into(publishing, run.step)
            callback = TrainbusCallback(run)
            time_wrappers(callback, watch)
            callback.bind(trainer)
            trainer.train()
            assert callback.stats().errors == 0, callback.stats().last_error
    else:
        trainer.train()
    return [1e6 * sample for sample in watch.samples[steps // 10 :]]  # without warm-up


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRAINBUS_HOME"] = str(Path(name) / "home")
        import torch

        torch.set_num_threads(1)
        alone: list[float] = []
        attached: list[float] = []
        publishing: list[float] = []
        for _ in range(options.rounds):
            alone += measure(Path(name) / "out", options.steps, attached=False, publishing=publishing)
            attached += measure(Path(name) / "out", options.steps, attached=True, publishing=publishing)
    beyond = statistics.median(attached) - statistics.median(alone)
    result = {
        "trainer_microseconds": round(statistics.median(alone), 1),
        "with_trainbus_microseconds": round(statistics.median(attached), 1),
        "beyond_microseconds": round(beyond, 1),
        "of_which_publishing_microseconds": round(statistics.median(publishing), 1),
        "beyond_p99_microseconds": round(statistics.quantiles(attached, n=100)[98] - statistics.quantiles(alone, n=100)[98], 1),
        "bar_microseconds": BAR_MICROSECONDS,
        "ratio_to_bar": round(beyond / BAR_MICROSECONDS, 2),
        "steps": options.steps * options.rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
