"""Throughput of `trainbus train` beside a bare transformers Trainer with the same model, data and arguments.

Both run in one process, in turn, each round in the other order. The same clock, a callback, stamps the end of each step; what is compared
is the time from step to step, so that loading and the last save count for nobody. Processor time is told, too: on a machine with other
work it is what each has cost.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.common import spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

LIMIT_PERCENT = 2.0
SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
MODES = ("bare Trainer", "trainbus train")


class Clock:
    """Stamps of the ends of steps, in wall and processor time."""

    def __init__(self):
        self.stamps: list[tuple[float, float]] = []

    def callback(self):
        from transformers import TrainerCallback

        stamps = self.stamps

        class Stamping(TrainerCallback):
            def on_step_end(self, *_, **__):
                stamps.append((time.perf_counter(), time.process_time()))

        return Stamping

    def take(self):
        """Wall and processor seconds of each step since the last time, without the first ones."""
        taken, self.stamps[:] = list(self.stamps), []
        pairs = list(pairwise(taken))[3:]
        return [after[0] - before[0] for before, after in pairs], [after[1] - before[1] for before, after in pairs]


def write_inputs(folder: Path, examples: int) -> None:
    """A model's shape and a file of questions of about 200 bytes, which are as many tokens here."""
    (folder / "model.json").write_text(json.dumps(SHAPE))
    rows = ({"question": f"What is {i} plus {i}? " * 6, "answer": f"{2 * i} " * 10} for i in range(examples))
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_bare(config, output: Path) -> None:
    """What somebody writes who uses transformers alone: the same model, tokens, collator and arguments."""
    from transformers import PrinterCallback, Trainer

    from trainbus.trainer_node import data, model, tokens
    from trainbus.trainer_node.arguments import training_arguments
    from trainbus.trainer_node.precision import resolved

    config = resolved(config)
    built = model.build(config)
    trainer = Trainer(
        model=built.model,
        args=training_arguments(config, output, evaluates=False),
        train_dataset=tokens.tokenize(data.load(config.data).examples, built.tokenizer, config.max_length),
        data_collator=tokens.Collator(built.tokenizer.pad_token_id),
        processing_class=built.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def train_ours(config, output: Path) -> None:
    import msgspec

    from trainbus.trainer_node.job import run_job

    summary = run_job(msgspec.structs.replace(config, output=str(output)))
    assert summary.outcome == "completed", summary


def bench(quick):
    rounds, steps = (2, 15) if quick else (8, 60)
    found = {mode: {"wall": [], "cpu": []} for mode in MODES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TRAINBUS_HOME"] = str(folder / "home")
        import torch
        import transformers

        from trainbus.trainer_node.config import TrainerConfig

        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        clock = Clock()
        transformers.trainer.DEFAULT_CALLBACKS.append(clock.callback())
        write_inputs(folder, 4 * steps)
        config = TrainerConfig(
            model=f"config:{folder / 'model.json'}", data=str(folder / "data.jsonl"), method="full", max_steps=steps, batch_size=4,
            save_steps=10**6, logging_steps=10, max_length=512,
        )  # fmt: skip
        run = dict(zip(MODES, (train_bare, train_ours), strict=True))
        for number in range(rounds):
            for mode in MODES if number % 2 else reversed(MODES):
                run[mode](config, folder / f"{mode.split()[0]}-{number}")
                wall, cpu = clock.take()
                found[mode]["wall"].append(statistics.median(wall) * 1e3)
                found[mode]["cpu"].append(statistics.median(cpu) * 1e3)
    more = {
        kind: [100 * (ours / bare - 1) for ours, bare in zip(found[MODES[1]][kind], found[MODES[0]][kind], strict=True)]
        for kind in ("wall", "cpu")
    }
    rows = [
        [mode, *(part for kind in ("wall", "cpu") for part in (statistics.median(told[kind]), spread(told[kind])))]
        for mode, told in found.items()
    ]
    return Result(
        "Training",
        f"A model of 4 layers on the CPU, one thread, {steps} steps a round, {rounds} rounds; each figure is the median step of a round.",
        [
            Table("ms a step", ["", "wall", "over the rounds", "processor", "over the rounds"], rows),
            Table(
                "% more than bare, round by round",
                ["", "median", "over the rounds"],
                [[kind, statistics.median(values), spread(values)] for kind, values in more.items()],
            ),
        ],
        [
            Bar("wall time a step beyond a bare Trainer (median round)", statistics.median(more["wall"]), LIMIT_PERCENT, "%"),
            Bar("processor time a step beyond a bare Trainer (median round)", statistics.median(more["cpu"]), LIMIT_PERCENT, "%"),
        ],
        {"transformers": absent_or_version("transformers"), "torch": absent_or_version("torch")},
        {"rounds": found, "more": more},
    )
