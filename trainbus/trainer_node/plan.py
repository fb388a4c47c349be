"""Where a job writes, under which run id, and what it resumes from: decided before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from trainbus.bus.events import MARKER
from trainbus.errors import ConfigError, DataError, ModelError
from trainbus.trainer_node import checkpoints, data, model, parallel
from trainbus.trainer_node.config import FOLLOWS_METRICS, Resume, TrainerConfig
from trainbus.trainer_node.part import Part
from trainbus.trainer_node.profile import HERE
from trainbus.trainer_node.ranks import asked_processes

RUNS = Path("runs")
"""Outputs go below this directory of the current one when none is named."""


class Plan(Struct, frozen=True, kw_only=True):
    """What was decided. ``output`` is None until the run has an id; ``run`` is None when it gets a new one."""

    name: str
    run: str | None = None
    output: Path | None = None
    checkpoint: Path | None = None
    step: int | None = None
    examples: int = 0
    tokens: int = 0
    positions: dict[str, int] = {}
    notes: tuple[str, ...] = ()


def make_plan(config: TrainerConfig, resume: Resume, part: Part | None = None) -> Plan:
    """Check what can be checked without loading, and decide.

    Args:
        part: A job of a continuous training: it goes on from whatever whole checkpoint is newest in the output.

    Raises:
        ConfigError: The output belongs to another training, or is needed and not named.
        DataError, ModelError: No or impossible data, model or checkpoint.
    """
    if not config.data:
        raise DataError("No training data is named.", hint="Give a JSONL file: `trainbus train FILE`.", key="trainer.data")
    for source in filter(None, (config.data, config.eval_file)):
        if not Path(source).expanduser().exists() and not data.is_hub_name(source):
            raise DataError(f"There is no file {source}.", hint="Check the path; relative paths start where the command runs.", file=source)
    model.check(config)
    if config.scheduler in FOLLOWS_METRICS and not (config.eval_file or config.eval_fraction):
        problem = f"scheduler = {config.scheduler!r} follows the evaluations, and there are none."
        raise ConfigError(problem, hint="Set eval_file or eval_fraction, or choose another.", key="trainer.scheduler")
    ending = config.profile.answer.partition(HERE)[2]
    if cut := next((stop for stop in config.eval_stops if stop and stop in ending), ""):
        problem = f"eval_stops ends answers before {cut!r}, and answers of the profile end with {ending!r}."
        raise ConfigError(problem, hint="Take it out of eval_stops: no answer could be right.", key="trainer.eval_stops", found=cut)
    name = config.name or Path(config.data).stem
    if resume.path:
        path = Path(resume.path).expanduser()
        checkpoints.require_whole(path)
        return _continue(config, name, path, Path(config.output) if config.output else path.parent, (), unlock=resume.unlock)
    output = Path(config.output).expanduser() if config.output else None
    if part is not None:
        return _next_part(config, name, output or RUNS / name, part)
    if resume.wanted:
        if output is None:
            raise ConfigError("--resume needs to know where the checkpoints are.", hint=_known_outputs(), key="trainer.output")
        path, unfinished = checkpoints.choose(output)
        notes = tuple(f"{other.name} was never finished; it is passed over" for other in unfinished)
        return _continue(config, name, path, output, notes, unlock=resume.unlock)
    if output is not None and checkpoints.listed(output):
        hint = "Go on with --resume, or choose another --output."
        raise ConfigError(f"{output} holds checkpoints of an earlier training.", hint=hint, key="trainer.output", found=str(output))
    return Plan(name=name, output=output)


def _next_part(config: TrainerConfig, name: str, output: Path, part: Part) -> Plan:
    if not any((path / MARKER).is_file() for path in checkpoints.listed(output)):
        return Plan(name=name, run=part.run, output=output)  # nothing was ever saved wholly
    path, unfinished = checkpoints.choose(output)
    notes = tuple(f"{other.name} was never finished; it is passed over" for other in unfinished)
    return _continue(config, name, path, output, notes, unlock=part.unlock)


def _continue(config: TrainerConfig, name: str, path: Path, output: Path, notes: tuple[str, ...], *, unlock: bool) -> Plan:
    marker = checkpoints.read_marker(path)
    known = checkpoints.read_run_file(output)
    if known is not None and known.method and known.method != config.method:
        problem = f"{output} was trained with method = {known.method!r}, and this job says {config.method!r}."
        raise ModelError(
            problem, hint=f"Resume with --method {known.method}.", key="trainer.method", found=config.method, allowed=known.method
        )
    if known is not None and not unlock:
        _require_locked(known, config, output)
    if checkpoints.is_fsdp(path) != (parallel.asked(config) == "fsdp"):
        how, wanted = ("by FSDP", '"fsdp"') if checkpoints.is_fsdp(path) else ("without FSDP", '"auto" or "ddp"')
        problem = f"{path} was saved {how}, which alone can read it."
        raise ConfigError(problem, hint=f"Resume with trainer.parallel = {wanted}.", key="trainer.parallel", allowed=wanted)
    if (written := checkpoints.processes_of(path)) != (here := asked_processes()):
        raise ConfigError(
            f"{path} was saved by {written} processes, and {here} would go on: order of data and random numbers would differ.",
            hint=f"Resume with {written}: torchrun --nproc-per-node {written} -m trainbus train ... --resume",
            found=here,
            allowed=written,
        )
    return Plan(
        name=(known.name if known else marker.name if marker else "") or name,
        run=known.run if known else marker.run if marker else None,
        output=output,
        checkpoint=path,
        step=marker.step if marker else checkpoints.step_of(path),
        examples=marker.examples if marker else 0,
        tokens=marker.tokens if marker else 0,
        positions=marker.positions if marker else {},
        notes=notes,
    )


def _require_locked(known: checkpoints.RunFile, config: TrainerConfig, output: Path) -> None:
    """A run goes on with the model and the length that it was begun with: what it has learned and measured belongs to them."""
    for key, before, now in (("model", known.model, config.model), ("max_length", known.max_length, config.max_length)):
        if before and before != now:
            problem = f"{output} was trained with {key} = {before!r}, and this job says {now!r}."
            hint = f"Set trainer.{key} back, or go on with the new one by --unlock."
            raise ConfigError(problem, hint=hint, key=f"trainer.{key}", found=now, allowed=before)


def _known_outputs() -> str:
    known = sorted(child for child in RUNS.iterdir() if checkpoints.listed(child)) if RUNS.is_dir() else []
    return f"Name it, for example --output {known[-1]}." if known else "Name it by --output."
