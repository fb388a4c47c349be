"""``[trainer]``: what one fine-tuning job is told, with its types, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from trainbus.trainer_node.formats import Schema
from trainbus.trainer_node.profile import PLAIN, Profile

Method: TypeAlias = Literal["full", "lora", "qlora"]
Scheduler: TypeAlias = Literal[
    "auto", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
]  # fmt: skip
"""Those of transformers, but for ``auto``."""

ENDLESS: tuple[Scheduler, ...] = ("auto", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "greedy")
"""They need not know where a training ends."""
FOLLOWS_METRICS: tuple[Scheduler, ...] = ("reduce_lr_on_plateau", "greedy")
"""They look at evaluations."""
Policy: TypeAlias = Literal["warn", "skip", "refuse"]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
LearningRate: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]


class TrainerConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """One fine-tuning job. Lengths are tokens, intervals are optimizer steps.

    Args:
        model: A local model directory, a hub name, or ``config:FILE.json`` for a fresh model of that configuration.
        data: A JSONL file, or the name of a hub data set.
        inbox: A folder; files that are put there are trained on one after the other, in one continuous run. Used when no data is named.
        output: Where checkpoints go; empty for ``runs/RUN``.
        name: Name of the run; empty for the data file's stem.
        tokenizer: Directory or hub name; empty for the model's own. A fresh model without one gets a byte-level tokenizer.
        bad_lines: ``refuse`` a file with lines that are no examples, or ``reject`` the lines: they are kept aside with their reasons, and
            the others are trained on, unless more than half are bad. ``auto``: refuse a named file, reject lines of an inbox.
        duplicates: Examples that an earlier line, or a file that this run was trained on before, holds already: ``warn``, ``skip`` them, or
            ``refuse`` the file.
        leaks: Examples whose text, question or id is in the evaluation set, too: ``warn``, ``skip`` them (and say so), or ``refuse``.
        data_split: Split of a hub data set; unused for files.
        columns: A file's own names for the keys of a format, such as ``{question = "frage", answer = "antwort"}``.
        schema: The format that every row must have. ``auto``: the first row's keys tell, or ``$schema`` in a row.
        profile: The form in which data are trained on, such as ``{system = "Be brief.", answer = "<answer>{}</answer>"}``. Files stay
            plain: questions and answers are dressed when they are read, and answers undressed before they are judged.
        too_long: ``cut`` examples at ``max_length``, or ``refuse`` data that hold longer ones.
        token_cache_gb: Tokenised files are kept in TRAINBUS_HOME/cache/tokens; above this size those used longest ago are removed.
        packing: Put several examples into each row of ``max_length`` tokens, so that less is padding. They don't see each other; a model
            that can't keep them apart is refused. A batch then holds more examples.
        method: ``full`` trains all weights, ``lora`` adapters, ``qlora`` adapters on a base in 4 bits (NF4).
        max_length: Longer examples are cut there.
        learning_rate: Its peak.
        batch_size: Examples in a forward pass, on each device.
        gradient_accumulation: Forward passes of an optimizer step.
        epochs: Passes over the data; unused when ``max_steps`` is set.
        max_steps: Optimizer steps in all.
        warmup: Steps of linear warm-up, or a fraction of all steps when below 1 (from an inbox, which has no end: 20 steps).
        scheduler: Course of the learning rate, in transformers' words. ``auto``: cosine for one file, constant after warm-up for an inbox.
        scheduler_options: What else transformers takes for it, such as ``{min_lr_rate = 0.1}`` or ``{num_decay_steps = 200}``.
        save_steps: Steps between checkpoints; the end of training is always saved.
        save_minutes: A checkpoint is saved, too, when the last one is so old; 0 for steps alone.
        eval_steps: Steps between evaluations; unused without ``eval_file`` or ``eval_fraction``.
        eval_fraction: Share of the data that is held out (by seed) for evaluation.
        eval_most: At most so many examples are held out.
        eval_file: Data for evaluation; nothing is held out then.
        eval_limit: The evaluation set has at most so many examples, chosen by seed.
        eval_samples: So many of them are also asked as questions at each evaluation, always the same; 0 for none.
        eval_train_samples: So many examples of the training data are asked, too; what is wrong goes into ``mistakes.jsonl`` in the output,
            a file to train on.
        eval_tokens: Longest answer.
        eval_answer_seconds: A batch of answers is cut after so long.
        eval_seconds: No further batch is asked after so long.
        eval_think_penalty: Taken from the logit of what completes ``<think>`` or ``</think>`` in an answer.
        eval_think_ramp: The think penalty rises from 0 to its amount over so many tokens.
        eval_stops: Texts at which an answer ends.
        eval_after_stop_penalty: Taken from the logits of all tokens but the end, once a stop was generated.
        eval_end_reward: Added to the logit of the end, once a stop was generated.
        max_grad_norm: Gradients are clipped to this norm; 0 turns that off.
        dtype: In what is computed. ``auto``: bfloat16 on an accelerator that can (else float16), float32 on a CPU. A frozen base has this
            type; what is trained is kept in float32.
        gradient_checkpointing: Activations are computed again instead of kept: less memory, a quarter slower. ``auto``: on an accelerator.
        parallel: How several processes train: ``ddp`` (each holds all weights) or ``fsdp`` (they share them); refused when something else
            comes of it. ``auto``: what the launcher sets up.
        seed: Of fresh weights, order of the data, dropout, and what is held out.
        logging_steps: Steps between what Trainer itself logs; the bus gets every step in any case.
        lora_r: Rank of the adapters.
        lora_alpha: Their output is scaled by this over the rank.
        lora_dropout: Dropout before them.
        lora_targets: ``all-linear`` or names of modules, separated by commas.
        settle_seconds: A file in the inbox is taken when it has not changed for so long.
        attempts: How often a file is tried before it has failed.
        retry_seconds: Pause before another attempt.
        free_disk: Mebibytes that stay free beside a checkpoint: where they are lacking, training waits before it saves, and says so.
        hang_seconds: A step that takes longer, and 20 times the slowest recent one, is a hang: that attempt is ended. 0: never.
    """

    model: str = ""
    data: str = ""
    inbox: str = ""
    output: str = ""
    name: str = ""
    tokenizer: str = ""
    bad_lines: Literal["auto", "refuse", "reject"] = "auto"
    duplicates: Policy = "warn"
    leaks: Policy = "skip"
    data_split: str = "train"
    columns: dict[str, str] = {}
    schema: Schema = "auto"
    profile: Profile = PLAIN
    too_long: Literal["cut", "refuse"] = "cut"
    token_cache_gb: Annotated[float, Meta(ge=0)] = 20.0
    method: Method = "lora"
    packing: bool = False
    max_length: Annotated[int, Meta(ge=8, le=1_048_576)] = 1024
    learning_rate: LearningRate = 2e-4
    batch_size: Positive = 4
    gradient_accumulation: Positive = 1
    epochs: Annotated[float, Meta(gt=0)] = 1.0
    max_steps: Positive | None = None
    warmup: Annotated[float, Meta(ge=0)] = 0.03
    scheduler: Scheduler = "auto"
    scheduler_options: dict[str, float | int | bool | str] = {}
    weight_decay: Fraction = 0.0
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    save_steps: Positive = 200
    save_minutes: Annotated[float, Meta(ge=0)] = 0.0
    eval_steps: Positive = 200
    eval_fraction: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    eval_most: Positive = 100
    eval_file: str = ""
    eval_limit: Positive = 2000
    eval_samples: Annotated[int, Meta(ge=0)] = 8
    eval_train_samples: Annotated[int, Meta(ge=0)] = 0
    eval_tokens: Positive = 256
    eval_answer_seconds: Annotated[float, Meta(gt=0)] = 30.0
    eval_seconds: Annotated[float, Meta(gt=0)] = 120.0
    eval_think_penalty: Annotated[float, Meta(ge=0)] = 0.0
    eval_think_ramp: Annotated[int, Meta(ge=0)] = 0
    eval_stops: list[str] = []
    eval_after_stop_penalty: Annotated[float, Meta(ge=0)] = 0.0
    eval_end_reward: Annotated[float, Meta(ge=0)] = 0.0
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 42
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    logging_steps: Positive = 10
    lora_r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Fraction = 0.0
    lora_targets: str = "all-linear"
    settle_seconds: Annotated[float, Meta(ge=0)] = 2.0
    attempts: Positive = 3
    retry_seconds: Annotated[float, Meta(ge=0)] = 10.0
    free_disk: Annotated[int, Meta(ge=0)] = 512
    hang_seconds: Annotated[float, Meta(ge=0)] = 300.0

    def targets(self) -> str | list[str]:
        """``lora_targets`` as PEFT wants it."""
        return self.lora_targets if self.lora_targets == "all-linear" else [name.strip() for name in self.lora_targets.split(",")]


class Resume(Struct, frozen=True, kw_only=True):
    """How a job begins: afresh, from the newest whole checkpoint of its output, or from a named one.

    ``unlock``: go on also with settings other than those that the run was begun with.
    """

    wanted: bool = False
    path: str = ""
    unlock: bool = False


class Summary(Struct, kw_only=True):
    """What became of a job; printed by ``trainbus train`` and by its ``--json``.

    ``longest`` is the longest example in tokens, ``peak_memory`` the most bytes that the accelerator's allocator has held.
    ``source`` published ``published`` events, of which ``acknowledged`` are in the journal; the rest waits in the spool.
    """

    run: str
    outcome: Literal["completed", "stopped", "failed"]
    output: str
    reason: str = ""
    steps: int = 0
    total_steps: int = 0
    resumed_step: int | None = None
    skipped: bool = False
    loss_first: float | None = None
    loss_last: float | None = None
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    file_examples: int = 0
    rejected: int = 0
    truncated: int = 0
    dropped: int = 0
    longest: int = 0
    peak_memory: int | None = None
    checkpoints: list[str] = []
    metrics: dict[str, Any] = {}
    source: str = ""
    published: int = 0
    acknowledged: int = 0
