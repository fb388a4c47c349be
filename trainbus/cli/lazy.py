"""The commands by name, and a click group that imports one only when it is called.

``trainbus --help`` prints the texts below, so it costs an import of click and no more.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """A command that isn't imported yet: ``target`` is ``module:attribute``, ``help`` one line."""

    group: str
    target: str
    help: str


GROUPS = ("Start", "Bus", "Training", "Models", "Plugins", "History", "Checkpoints", "Setup")
"""The order in which the help lists the groups; one without commands is left out."""

LAZY: dict[str, Lazy] = {
    "demo": Lazy("Start", "trainbus.cli.demo:command", "Train a small model with all five plugins, and look."),
    "init": Lazy("Start", "trainbus.cli.init:command", "Write a commented trainbus.toml."),
    "help": Lazy("Start", "trainbus.cli.help:command", "Explain trainbus, or one command."),
    "doctor": Lazy("Start", "trainbus.cli.doctor:command", "Check this machine, and say how to mend what is wrong."),
    "up": Lazy("Bus", "trainbus.cli.up:command", "Start the broker and the enabled plugins."),
    "status": Lazy("Bus", "trainbus.cli.status:command", "Show broker, runs, publishers and plugins."),
    "reload": Lazy("Bus", "trainbus.cli.reload:command", "Read trainbus.toml again and apply what changed."),
    "down": Lazy("Bus", "trainbus.cli.down:command", "Stop the plugins and the broker."),
    "logs": Lazy("Bus", "trainbus.cli.logs:command", "Show what broker, plugins and commands have printed."),
    "tidy": Lazy("Bus", "trainbus.cli.tidy:command", "Bring logs and leftovers in HOME within their bounds."),
    "journal": Lazy("Bus", "trainbus.cli.journal:command", "Show, check, back up or compact the journal."),
    "service": Lazy("Bus", "trainbus.cli.service:command", "Print a systemd unit for `trainbus up`."),
    "train": Lazy("Training", "trainbus.cli.train:command", "Fine-tune a model on a file, or on all that come into an inbox."),
    "data": Lazy("Training", "trainbus.cli.data:command", "Check training data, and see what a model learns from it."),
    "queue": Lazy("Training", "trainbus.cli.queue:command", "Show and edit the queue of an inbox."),
    "exec": Lazy("Training", "trainbus.cli.exec:command", "Run any training command, watched and supervised."),
    "control": Lazy("Training", "trainbus.cli.control:command", "Pause, resume, stop or otherwise steer a run."),
    "watch": Lazy("Training", "trainbus.cli.watch:command", "Watch a run in the terminal: loss, memory, alerts, plugins."),
    "infer": Lazy("Models", "trainbus.cli.infer:command", "Ask a model or any checkpoint: once, in a conversation, two beside each other."),
    "models": Lazy("Models", "trainbus.cli.models:command", "List, look at, save and delete models and checkpoints."),
    "create": Lazy("Models", "trainbus.cli.create:command", "Make a model that has learnt nothing yet."),
    "generate": Lazy("Models", "trainbus.cli.generate:command", "Let a model write new training data into the inbox."),
    "serve": Lazy("Models", "trainbus.cli.serve:command", "Answer with models and checkpoints, in OpenAI's form."),
    "server": Lazy("Models", "trainbus.cli.server:command", "Ask a running `trainbus serve` about its models, jobs, GPUs and power."),
    "plugins": Lazy("Plugins", "trainbus.cli.plugins:command", "List, add, remove or restart plugins; make and check your own."),
    "attach": Lazy("Plugins", "trainbus.cli.attach:command", "Run one plugin by hand against a running broker."),
    "runs": Lazy("History", "trainbus.cli.runs:command", "List, show, export or delete runs."),
    "tail": Lazy("History", "trainbus.cli.tail:command", "Print events as they come, or the last ones."),
    "replay": Lazy("History", "trainbus.cli.replay:command", "Print a run's events again, at any speed."),
    "backtest": Lazy("History", "trainbus.cli.backtest:command", "Run the anomaly rules over recorded histories."),
    "cursors": Lazy("History", "trainbus.cli.cursors:command", "List, reset or drop consumers; show dead letters."),
    "spool": Lazy("History", "trainbus.cli.spool:command", "List what publishers left behind, and send it."),
    "checkpoints": Lazy("Checkpoints", "trainbus.cli.checkpoints:command", "List, prune, pin, verify and restore checkpoints; versions."),
    "keys": Lazy("Setup", "trainbus.cli.keys:command", "Let other machines in: invite, list, revoke, rotate."),
    "config": Lazy("Setup", "trainbus.cli.config:command", "Show or check the configuration."),
    "schema": Lazy("Setup", "trainbus.cli.schema:command", "Print the JSON Schema of every event."),
}


class OutputClosed(Exception):  # noqa: N818 - it is no error: the reader has had enough
    """Nobody reads stdout any more. In place of BrokenPipeError, which click would turn into exit code 1 by itself."""


class LazyGroup(click.Group):
    """A group whose commands stand in a table and are imported when they are called."""

    def __init__(self, *, table: dict[str, Lazy], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]
        self.table = table

    def invoke(self, ctx: click.Context) -> Any:
        """As click, but a closed pipe reaches the caller."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return [name for group in GROUPS for name, lazy in self.table.items() if lazy.group == group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command of the table, or the commands of an installed plugin of that name."""
        if cmd_name in self.table:
            module, _, attribute = self.table[cmd_name].target.partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert isinstance(command, click.Command), f"{module}.{attribute} is no click command"
            return command
        from trainbus.cli.plugin_commands import commands_of_plugin  # looks at entry points: only when nothing else matches

        return commands_of_plugin(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but an unknown name is answered with the nearest ones."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is not None:
            return name, command, args[1:]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self.table, n=3, cutoff=0.5)
        guess = f" Did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else ""
        raise click.UsageError(f"There is no command `{name}`.{guess}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, group by group."""
        width = max(map(len, self.table))
        for group in GROUPS:
            rows = [(name.ljust(width), lazy.help) for name, lazy in self.table.items() if lazy.group == group]
            if rows:
                with formatter.section(click.style(group, bold=True)):
                    formatter.write_dl(rows)
