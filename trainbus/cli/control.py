"""``trainbus control VERB [RUN]``: ask a run for something, and wait for its answer."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from typing import Any

import click
from rich.text import Text

from trainbus.bus.client import Client
from trainbus.bus.config_file import parse_value
from trainbus.bus.events import CommandResult
from trainbus.bus.subscriber import Subscriber
from trainbus.cli.app import UsageError
from trainbus.cli.history import known_run, running_run
from trainbus.cli.options import json_option
from trainbus.cli.output import note, print_json, state, stdout
from trainbus.errors import RefusedError, UnreachableError

VERBS = {
    "pause": "Stop before the next step and wait.",
    "resume": "Go on after a pause.",
    "stop": "Save a checkpoint and end.",
    "save": "Save a checkpoint now.",
    "evaluate": "Run the evaluation now.",
    "free_caches": "Give back memory that is held without need: garbage, cached GPU memory, free heap.",
    "skip": "Leave the current file and take the next one.",
}


QUEUE_VERBS = {
    "queue_priority": (("job", "priority"), "Give the waiting JOB another PRIORITY: high, normal or low."),
    "queue_move": (("job", "before"), "Put the waiting JOB right BEFORE another one."),
    "queue_remove": (("job",), "Take JOB out of the queue."),
    "queue_retry": (("job",), "Let the failed JOB wait again."),
    "queue_hold": ((), "Begin no further file; the current one is finished."),
    "queue_release": ((), "Begin files again."),
}
"""For a run of `trainbus train --inbox`, also on another machine: `trainbus queue` edits the queue of this one."""


@click.group(name="control")
def command() -> None:
    """Steer a run: a command is journaled, delivered, and answered by the run.

    RUN is an id or its beginning; it may be left out while only one run is running. Exit code 0: done,
    4: refused, 3: no answer in time (the command stays, and is obeyed when the run gets it).
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = json_option(function)
    function = click.option("--reason", default="", help="Why; it is kept in the journal.")(function)
    default = click.option(
        "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to wait for the answer."
    )
    return default(function)


def _add(verb: str, help_text: str) -> None:
    @command.command(name=verb.replace("_", "-"), help=help_text)
    @click.argument("run", required=False)
    @_options
    def _verb(run: str | None, timeout: float, reason: str, as_json: bool) -> None:
        ask(run, verb, {}, reason=reason, timeout=timeout, as_json=as_json)


for _name, _text in VERBS.items():
    _add(_name, _text)


def _add_queue(verb: str, names: tuple[str, ...], help_text: str) -> None:
    def _verb(run: str | None, timeout: float, reason: str, as_json: bool, **given: str) -> None:
        ask(run, verb, given, reason=reason, timeout=timeout, as_json=as_json)

    made: Any = click.option("--run", help="The run. Default: the only one that is running.")(_options(_verb))
    for name in reversed(names):
        made = click.argument(name)(made)
    command.command(name=verb.replace("_", "-"), help=f"{help_text} For a run of `trainbus train --inbox`.")(made)


for _name, (_names, _text) in QUEUE_VERBS.items():
    _add_queue(_name, _names, _text)


@command.command(name="set")
@click.argument("run")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@_options
def set_(run: str, settings: tuple[str, ...], timeout: float, reason: str, as_json: bool) -> None:
    """Change settings of RUN while it runs, e.g. learning_rate=1e-5."""
    arguments: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{setting!r} is no KEY=VALUE.", hint="For example: trainbus control set RUN learning_rate=1e-5", found=setting
            )
        arguments[key] = parse_value(value)
    ask(run, "set", arguments, reason=reason, timeout=timeout, as_json=as_json)


def ask(name: str | None, verb: str, arguments: dict[str, Any], *, reason: str, timeout: float, as_json: bool) -> None:
    """Send the command, wait for its end, print it.

    Raises:
        RefusedError: The run, or the broker, refused.
        UnreachableError: The run did not answer in time.
    """
    with Client() as client:
        run = (known_run(client, name) if name else running_run(client)).run
        head = client.status().head  # the answer comes behind it, however fast
        with Subscriber(["command_result"], [run], start=head) as results:
            command_id = client.command(run, verb, requested_by=_person(), reason=reason, **arguments)
            result = _result(results, command_id, timeout, quiet=as_json)
    if result is None:
        hint = "The command stays in the journal and is obeyed when the run gets it; `trainbus status` shows who is connected."
        raise UnreachableError(f"{run} has not answered `{verb}` within {timeout:g} s.", hint=hint, run=run, command=command_id)
    if result.state == "refused":
        raise RefusedError(
            f"{run} refused `{verb}`: {result.reason or 'no reason given'}.", hint="", code="declined", run=run, command=command_id
        )
    if as_json:
        print_json(result)
        return
    details = "  ".join(f"{key} {value}" for key, value in result.result.items())
    stdout().print(
        Text("  ").join(part for part in (Text(f"{run}: {verb}"), state(result.state), Text(details), Text(result.reason)) if part)
    )


def _result(results: Subscriber[Any], command_id: str, timeout: float, *, quiet: bool) -> CommandResult | None:
    end = time.monotonic() + timeout
    while (event := results.next(max(end - time.monotonic(), 0.0))) is not None:
        if isinstance(event, CommandResult) and event.command == command_id:
            if event.state != "accepted":
                return event
            if not quiet:
                note(f"{event.run} has accepted it{': ' + event.reason if event.reason else ''}; waiting for its end ...")
    return None


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return "operator"
