"""Time in callbacks at each step of transformers' Trainer: its own bookkeeping alone, with an empty callback, and with trainbus.

The three run in turn on the same tiny model, round after round, so that the machine's mood hits them alike. What is compared is the
time inside callbacks and inside our two wrappers, less what they wrap; steps per second are too noisy to show 1 %. The model's step
between two of them empties the processor's caches. An empty callback is the least that any logger adds to Trainer.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import figures, spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

BAR_MICROSECONDS, STEP_MILLISECONDS, STEP_SHARE = 15.0, 27.0, 0.005
MODES = ("Trainer alone", "with an empty callback (limit)", "with trainbus")


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


def time_methods(trainer, watch):
    """Measure what lies around the two methods that trainbus wraps: nothing, or its wrappers. Returns what has to come after them."""
    inner = [0.0]
    for name in ("training_step", "_get_grad_norm"):
        original = getattr(trainer, name)

        def counted(*args, _original=original, **kwargs):
            began = time.perf_counter()
            result = _original(*args, **kwargs)
            inner[0] = time.perf_counter() - began
            return result

        setattr(trainer, name, counted)

    def finish():
        for name in ("training_step", "_get_grad_norm"):
            wrapped = getattr(trainer, name)

            def timed(*args, _wrapped=wrapped, **kwargs):
                began = time.perf_counter()
                result = _wrapped(*args, **kwargs)
                watch.add(time.perf_counter() - began - inner[0])
                return result

            setattr(trainer, name, timed)

    return finish


def make_trainer(directory, steps, **arguments):
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
    chosen = {"logging_steps": 10**9, "report_to": "none", **arguments}
    arguments = transformers.TrainingArguments(
        output_dir=str(directory), max_steps=steps, per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, **chosen,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=from_config({**SMALL_QWEN3, **shape}, tokenizer),
        args=arguments,
        train_dataset=tokens.tokenize(examples, tokenizer, 64),
        data_collator=tokens.Collator(tokenizer.pad_token_id),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def measure(directory, steps, mode):
    """Microseconds in callbacks of each step."""
    import transformers

    import trainbus
    from trainbus.trainer_node.callback import attach

    trainer, watch = make_trainer(directory, steps), Stopwatch()
    time_events(trainer, watch)
    finish = time_methods(trainer, watch)
    if mode == MODES[2]:
        with trainbus.init("benchmark") as run:
            callback = attach(trainer, run)
            finish()
            trainer.train()
            stats = callback.stats()
            assert (stats.errors, stats.steps) == (0, steps), stats
    else:
        if mode == MODES[1]:
            trainer.add_callback(transformers.TrainerCallback())
        finish()
        trainer.train()
    return [1e6 * sample for sample in watch.samples[steps // 10 :]]  # without warm-up


def bench(quick):
    rounds, steps = (2, 150) if quick else (6, 400)
    found = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRAINBUS_HOME"] = str(Path(name) / "home")
        import torch

        torch.set_num_threads(1)
        for _ in range(rounds):
            for mode in MODES:
                found[mode].append(figures(measure(Path(name) / "out", steps, mode)))
    best = {mode: {key: min(one[key] for one in rounds_) for key in ("p50", "p95", "p99")} for mode, rounds_ in found.items()}
    # Differences within one round, where the machine was the same: the median over the rounds.
    beyond = {mode: [one["p50"] - alone["p50"] for one, alone in zip(found[mode], found[MODES[0]], strict=True)] for mode in MODES[1:]}
    rows = [
        [
            mode,
            *best[mode].values(),
            f"{statistics.median(beyond[mode]):.1f}" if mode in beyond else "",
            spread([one["p50"] for one in rounds_]),
        ]
        for mode, rounds_ in found.items()
    ]
    own = min(beyond[MODES[2]])
    return Result(
        "Hugging Face callback",
        f"A tiny model on the CPU, {steps} steps a round, {rounds} rounds, no broker needed: the spool takes the events.",
        [Table("µs in callbacks a step", ["", "p50", "p95", "p99", "beyond Trainer alone (median)", "p50 over the rounds"], rows)],
        [
            Bar("a step beyond Trainer's own bookkeeping (quietest round)", own, BAR_MICROSECONDS, "µs"),
            Bar(f"share of a step of {STEP_MILLISECONDS:.0f} ms", own / (STEP_MILLISECONDS * 1e3) * 100, STEP_SHARE * 100, "%"),
        ],
        {"transformers": absent_or_version("transformers"), "torch": absent_or_version("torch")},
        {"rounds": found},
    )
