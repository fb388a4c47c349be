"""``trainbus exec``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from trainbus.bus.config_file import load
from trainbus.bus.facts import default_run_id, safe_run_id
from trainbus.bus.home import home
from trainbus.cli.options import config_options
from trainbus.cli.output import duration, note, size
from trainbus.errors import ConfigError
from trainbus.launch.environment import default_name
from trainbus.launch.supervise import Ending, Supervisor
from trainbus.sources.patterns import own_pattern


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", help="Name of the run. Default: after the script, module or program.")
@click.option("--run", "run_id", metavar="ID", help="Id of the run. Default: its name, the time and a random part.")
@click.option("--cwd", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the command works. Default: here.")
@click.option("--no-inject", is_flag=True, help="Give no callback to transformers, Lightning and Accelerate.")
@click.option("--keep-children", is_flag=True, help="Leave processes alone that the command leaves behind; without this they end with it.")
@click.option(
    "--pattern",
    "expressions",
    multiple=True,
    metavar="REGEX",
    help="Read steps from lines of the output that this matches: named groups are metrics; step is the step. Repeatable.",
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing about the end on stderr.")
@config_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENTS]...")
def command(
    name: str | None,
    run_id: str | None,
    cwd: Path | None,
    no_inject: bool,
    keep_children: bool,
    expressions: tuple[str, ...],
    quiet: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
    command: tuple[str, ...],
) -> int:
    """Run any training command unchanged, watched and supervised.

    Its exit code is passed on (128 and the signal when one ends it), signals go to it, a terminal stays a terminal. Its output is kept
    in HOME/logs/exec/RUN.log. Trainings by transformers (TRL, Axolotl, LLaMA-Factory, Unsloth), Lightning and Accelerate publish
    every step, without a change to the script. Works with or without a running broker.
    """
    if not command:
        raise ConfigError("There is no command.", hint="For example: trainbus exec -- python train.py", key="COMMAND")
    if cwd is not None and not cwd.is_dir():
        raise ConfigError(f"--cwd {cwd}: there is no such folder.", hint="Name the folder in which the command is to work.", found=str(cwd))
    settings = load(config_path, overrides=overrides).config.bus
    chosen = name or default_name(command)
    supervisor = Supervisor(
        command,
        run=safe_run_id(run_id) if run_id else default_run_id(chosen),
        name=chosen,
        root=home(),
        cwd=cwd,
        environment=os.environ,
        inject=not no_inject,
        leave=keep_children,
        settings=settings,
        patterns=[own_pattern("--pattern", expression) for expression in expressions],
    )
    ending = supervisor.run()
    if not quiet:
        _tell(ending)
    sys.stdout.flush()
    return ending.ended.status


def _tell(ending: Ending) -> None:
    verdict = ending.verdict
    peak = f", at most {size(ending.rss)} in {ending.processes or 1} process{'es' if ending.processes > 1 else ''}" if ending.rss else ""
    reason = f": {verdict.reason}" if verdict.reason else ""
    note(f"trainbus: {verdict.outcome} after {duration(ending.seconds)}{peak}{reason}")
    if verdict.advice:
        note(f"trainbus: {verdict.advice}")
    if ending.told:
        note(f"trainbus: ended what the command left behind: {', '.join(ending.told)}")
    if ending.stuck:
        note(f"trainbus: not even SIGKILL has ended {', '.join(ending.stuck)}; a driver or a network disk hangs")
    if ending.log_errors:
        note(f"trainbus: {ending.log} lacks output that could not be written: is the disk full?")
    elif verdict.outcome == "failed":
        note(f"trainbus: its output is kept in {ending.log}")
    if not ending.delivered:
        note("trainbus: no broker has taken all events yet; they wait in the spool (`trainbus up`, or `trainbus spool drain`)")
