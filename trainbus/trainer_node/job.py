"""One fine-tuning job from file to checkpoints: load_data, tokenize, load_model, train (with evaluate and save)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trainbus.errors import ConfigError, ModelError
from trainbus.trainer_node import checkpoints, tokens
from trainbus.trainer_node.arguments import steps_of, total_steps, training_arguments
from trainbus.trainer_node.beforehand import Beforehand
from trainbus.trainer_node.config import Resume, Summary, TrainerConfig
from trainbus.trainer_node.dataset.preparing import finish
from trainbus.trainer_node.masking import MaskWatch
from trainbus.trainer_node.observer import Observer, Silent, Throttle
from trainbus.trainer_node.parallel import require
from trainbus.trainer_node.part import Part, Remaining, positions, presentation_order
from trainbus.trainer_node.plan import RUNS, Plan, make_plan
from trainbus.trainer_node.precision import resolved
from trainbus.trainer_node.ranks import Ranks, join
from trainbus.trainer_node.readying import Readied, StoppedError, make_ready
from trainbus.trainer_node.room import Room, first_checkpoint
from trainbus.trainer_node.schedule import make_decayable
from trainbus.trainer_node.signals import stop_on_signals

if TYPE_CHECKING:
    from trainbus.bus.run import Leader, Run
    from trainbus.trainer_node.callback import TrainbusCallback

TOLD_EVERY_SECONDS = 0.5
"""An observer hears of steps this often: reading a loss waits for the device."""


FRESH_START = Resume()


def run_job(
    config: TrainerConfig,
    *,
    resume: Resume = FRESH_START,
    part: Part | None = None,
    observer: Observer | None = None,
    root: Path | None = None,
    router: str | None = None,
    leader: Leader | None = None,
) -> Summary:
    """Train once. Works without a broker: events then wait in the spool.

    Args:
        config: What to train.
        resume: Where to go on.
        part: What this job is in a continuous training; it then goes on where the newest whole checkpoint stands.
        observer: Who is told of the progress.
        root: The state directory; None for TRAINBUS_HOME.
        router: The broker's address; None to follow the connection file.
        leader: Who owns the run, for a job of a continuous training.

    Returns:
        What became of it: completed, stopped (by a command or a signal, with a checkpoint saved) or failed (the loss
        became NaN; earlier checkpoints stay as they are).

    Raises:
        TrainbusError: Configuration, data, model or checkpoint are impossible. What is cheap to check is checked before the run starts.
    """
    from trainbus.bus.facts import default_run_id
    from trainbus.bus.publisher import CLOSE_SECONDS
    from trainbus.bus.run import init

    watcher = observer or Silent()
    plan = make_plan(config, resume, part)
    for note in plan.notes:
        watcher.note(note)
    _load_libraries()
    config = resolved(config)
    ranks = join()
    if ranks.rank:
        watcher = Silent()
    settings = msgspec.to_builtins(config)
    resumed = plan.run is not None and plan.checkpoint is not None
    shared = plan.run or (ranks.share_text(default_run_id(plan.name)) if ranks.size > 1 else None)
    with init(
        plan.name, config=settings, run=shared, resume=resumed, resumed_step=plan.step, root=root, router=router, leader=leader
    ) as run:
        output = plan.output or RUNS / run.id
        if plan.checkpoint is not None:
            watcher.note(f"resuming run {run.id} from {plan.checkpoint} at step {plan.step}")
        with _explained(output):
            if ranks.rank == 0:
                about = checkpoints.RunFile(
                    run=run.id, name=plan.name, model=config.model, method=config.method, max_length=config.max_length
                )
                checkpoints.write_run_file(output, about)
        beforehand = Beforehand(run)
        prepared: Readied | None = None
        with suppress(StoppedError), beforehand:
            prepared = make_ready(config, plan, part, run, watcher, output, root, ranks, beforehand, unlock=resume.unlock)
        if prepared is None or ranks.any(bool(beforehand.stopping)):
            beforehand.stopped()
            summary = _stopped(plan, run, output, beforehand.stopping)
        else:
            summary = _train(config, plan, part, prepared, run, output, watcher, ranks, beforehand)
        if part is not None and prepared is not None and summary.outcome == "completed":
            finish(output, part.job, config.data, prepared.training)
        run.close(outcome=summary.outcome, reason=summary.reason, timeout=CLOSE_SECONDS)
    told = run.stats()
    return msgspec.structs.replace(summary, source=told.source, published=told.published, acknowledged=told.acknowledged)


def _load_libraries() -> None:
    """Before the run starts, so that its first event tells their versions."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def _train(
    config: TrainerConfig,
    plan: Plan,
    part: Part | None,
    prepared: Readied,
    run: Run,
    output: Path,
    watcher: Observer,
    ranks: Ranks,
    beforehand: Beforehand,
) -> Summary:
    from trainbus.trainer_node.callback import attach
    from trainbus.trainer_node.evaluation.setup import make_examination

    full = config.method == "full"
    options: dict[str, Any] = {"room": Room(output, config.free_disk, lambda: first_checkpoint(prepared.built.model, full=full))}
    training: Any = prepared.training
    if part is not None:
        seen = 0 if prepared.afresh else plan.positions.get(part.job, 0)
        training = Remaining(prepared.training, presentation_order(len(prepared.training), config.epochs, config.seed, part.job), seen)
        if not len(training):
            return _nothing_left(plan, prepared, run, output)
        options["positions"] = lambda since: positions(part, plan.positions, seen + since)
        options["phase_began"] = watcher.phase
        total = (plan.step or 0) + steps_of(config, len(training))
    else:
        total = total_steps(config, len(prepared.training), ranks.size)
    if plan.step is not None and plan.step >= total:
        hint = "Raise max_steps or epochs to train on."
        raise ConfigError(
            f"The training is complete: {plan.checkpoint} is at step {plan.step} of {total}.",
            hint=hint,
            key="trainer.max_steps",
            found=total,
        )
    masks = None if prepared.plain or ranks.rank else MaskWatch(run, Path(config.data).name).saw
    packs: deque[int] | None = deque() if config.packing else None
    collate = tokens.Collator(prepared.built.tokenizer.pad_token_id, masks, packs)
    trainer = _trainer(config, prepared, training, output, collate, until=total if part is not None else None)
    if ranks.size > 1:
        options["ranks"] = ranks
    options |= {"guard": True, "save_every": 60 * config.save_minutes, "packs": packs, "beforehand": beforehand}
    callback = attach(trainer, run, name=plan.name, examples=plan.examples, tokens=plan.tokens, **options)
    if prepared.evaluation is not None and ranks.rank == 0:
        callback.examination = make_examination(
            config, trainer, run, prepared.asked, output=output, checkpoint=plan.checkpoint, hurry=lambda: callback.hurried,
            note=watcher.note,
        )  # fmt: skip
    trainer.add_callback(_watching(callback, watcher, lambda: require(config, trainer, ranks.size)))
    watcher.phase("train")
    started = time.monotonic()
    try:
        with stop_on_signals(callback.request_stop), _explained(output):
            trainer.train(resume_from_checkpoint=str(plan.checkpoint) if plan.checkpoint else None)
    finally:
        callback.close()
    return _summarise(trainer, callback, plan, prepared, run, output, time.monotonic() - started)


def _stopped(plan: Plan, run: Run, output: Path, reason: str) -> Summary:
    """Nothing was trained on: all is as it was."""
    return Summary(
        run=run.id, outcome="stopped", output=str(output), reason=reason or "another process was asked to stop", total_steps=plan.step or 0,
        resumed_step=plan.step, examples=plan.examples, tokens=plan.tokens,
    )  # fmt: skip


def _nothing_left(plan: Plan, prepared: Readied, run: Run, output: Path) -> Summary:
    """The newest checkpoint has seen the whole file: only the word that it is done was lost."""
    return Summary(
        run=run.id, outcome="completed", output=str(output), steps=0, total_steps=plan.step or 0, resumed_step=plan.step,
        examples=plan.examples, tokens=plan.tokens, file_examples=len(prepared.training), dropped=prepared.training.stats().dropped,
    )  # fmt: skip


def _trainer(config: TrainerConfig, prepared: Readied, training: Any, output: Path, collate: tokens.Collator, *, until: int | None) -> Any:
    from transformers import PrinterCallback, Trainer

    from trainbus.trainer_node.evaluation.figures import trainer_options

    trainer = Trainer(
        model=prepared.built.model,
        args=training_arguments(config, output, evaluates=prepared.evaluation is not None, until=until),
        train_dataset=training,
        eval_dataset=prepared.evaluation,
        data_collator=collate,
        processing_class=prepared.built.tokenizer,
        **(trainer_options() if prepared.evaluation is not None else {}),
    )
    trainer.remove_callback(PrinterCallback)
    make_decayable(trainer)
    return trainer


def _watching(callback: TrainbusCallback, watcher: Observer, begins: Callable[[], None]) -> Any:
    from transformers import TrainerCallback

    throttle = Throttle(TOLD_EVERY_SECONDS)

    class Watching(TrainerCallback):  # made here, because importing transformers takes seconds
        """Looks at what was made before the first step, and tells the observer of steps, now and then."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The model is wrapped."""
            begins()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """A step is done."""
            if throttle.ready() or state.global_step == state.max_steps:
                watcher.step(state.global_step, state.max_steps, float(callback.last_loss))

    return Watching()


def _summarise(trainer: Any, callback: TrainbusCallback, plan: Plan, prepared: Readied, run: Run, output: Path, seconds: float) -> Summary:
    report, stats = prepared.training.stats(), callback.stats()
    return Summary(
        run=run.id,
        outcome="failed" if callback.failure else "stopped" if callback.stopped else "completed",
        output=str(output),
        reason=callback.failure or callback.stopped,
        skipped=callback.skipped,
        steps=stats.steps,
        total_steps=trainer.state.max_steps,
        resumed_step=plan.step,
        loss_first=_number(callback.first_loss),
        loss_last=_number(callback.last_loss),
        seconds=seconds,
        examples=stats.examples,
        tokens=stats.tokens,
        tokens_per_second=(stats.tokens - plan.tokens) / seconds if seconds else 0.0,
        file_examples=report.examples,
        rejected=prepared.rejected,
        truncated=report.truncated,
        dropped=report.dropped,
        longest=report.longest,
        peak_memory=_peak_memory(),
        checkpoints=[str(path) for path in checkpoints.listed(output) if not checkpoints.faults(path)],
        metrics=callback.evaluated,
    )


def _peak_memory() -> int | None:
    import torch

    return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else None


def _number(loss: Any) -> float | None:
    return None if loss is None else float(loss)


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    """What a person can mend gets a sentence; any other error of a training is a fault to be seen as it is."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = "Lower batch_size (and raise gradient_accumulation), lower max_length, or use --method qlora."
        raise ModelError(f"The accelerator is out of memory: {str(error).splitlines()[0]}", hint=hint) from error
    except OSError as error:
        hint = "Free some space or choose another --output, then go on with --resume."
        raise ModelError(f"{output} can't be written: {error}", hint=hint, file=str(output)) from error
