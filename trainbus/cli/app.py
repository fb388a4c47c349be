"""The ``trainbus`` command itself, and the one place where errors become messages and exit codes.

Exit codes: 0 done · 1 and 3 to 9 an error of `trainbus.errors` (each class has its own) · 2 wrong usage or configuration ·
70 a fault of trainbus itself · 130 interrupted · 141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from trainbus.cli.lazy import LAZY, LazyGroup, OutputClosed
from trainbus.errors import TrainbusError
from trainbus.version import __version__

INTERRUPTED = 130
BROKEN_PIPE = 141
DEBUG_HINT = "This is a fault of trainbus: run with TRAINBUS_DEBUG=1 for the traceback."

EXTRA_OF_MODULE = {
    "torch": "trainer", "transformers": "trainer", "peft": "trainer", "bitsandbytes": "trainer",
    "datasets": "trainer", "accelerate": "trainer", "xxhash": "retention", "fsspec": "retention",
    "psutil": "memory", "pynvml": "memory", "aiohttp": "web", "tsdownsample": "web", "pyarrow": "parquet",
    "apprise": "notify",
}  # fmt: skip
"""Which extra brings a module that isn't part of the core."""

_RIGHTS = "Look at its rights, or set TRAINBUS_HOME to a folder that you may write to."
_IN_THE_WAY = "A file is where a folder should be, or the other way round: move it, or name another place."
HINT_OF_ERRNO = {
    errno.ENOSPC: "The disk is full: free some space, or set TRAINBUS_HOME to another disk.",
    errno.EDQUOT: "Your quota is used up: free some space, or set TRAINBUS_HOME to another disk.",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
}
"""What to do when the operating system refuses something for a reason that a person can mend."""


class UsageError(TrainbusError):
    """The command line was called in a way that it doesn't know."""

    code = "usage"
    exit_code = 2


class InternalError(TrainbusError):
    """An exception that nobody foresaw."""

    code = "internal"
    exit_code = 70


cli = LazyGroup(
    table=LAZY,
    name="trainbus",
    help="Independent monitors for LLM fine-tuning on a durable event bus.",
    epilog="`trainbus COMMAND --help` explains one command. A plugin's own commands are under `trainbus PLUGIN`.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
click.version_option(__version__, "-V", "--version", prog_name="trainbus", message="%(prog)s %(version)s")(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code. A command that returns an int or calls ``ctx.exit(code)`` chooses its own.
    """
    as_json = "--json" in arguments[: arguments.index("--")] if "--" in arguments else "--json" in arguments
    try:
        result = cli.main(arguments, prog_name="trainbus", standalone_mode=False)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        # The reader went away (`trainbus tail | head`). Without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
            return error.exit_code
        path = context.command_path if isinstance(error, click.UsageError) and (context := error.ctx) else "trainbus"
        return _fail(UsageError(error.format_message(), hint=f"`{path} --help` shows what is possible."), as_json)
    except TrainbusError as error:
        return _fail(error, as_json)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = EXTRA_OF_MODULE.get(missing)
        if extra is None:
            return _fail(InternalError(f"ModuleNotFoundError: {error}", hint=DEBUG_HINT), as_json)
        problem = f"This needs the module {missing}, which is not installed."
        return _fail(TrainbusError(problem, hint=f"pip install 'trainbus[{extra}]'", extra=extra), as_json)
    except OSError as error:
        return _fail(_refused_by_system(error), as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: one line for people, the traceback on demand
        return _fail(InternalError(f"{type(error).__name__}: {error}", hint=DEBUG_HINT), as_json)
    return result if isinstance(result, int) else 0


def _refused_by_system(error: OSError) -> TrainbusError:
    """A full disk, missing rights or a file in the way: named, and no fault of ours."""
    if error.errno not in HINT_OF_ERRNO:
        return InternalError(f"{type(error).__name__}: {error}", hint=DEBUG_HINT)
    from trainbus.bus.home import home  # loads msgspec: not for `trainbus --help`

    where = error.filename or home()
    return TrainbusError(f"{where}: {error.strerror}.", hint=HINT_OF_ERRNO[error.errno], file=str(where), errno=error.errno)


def _fail(error: TrainbusError, as_json: bool) -> int:
    from trainbus.cli.output import print_error  # rich is loaded only now

    if os.environ.get("TRAINBUS_DEBUG"):
        traceback.print_exc()
    print_error(error, as_json=as_json)
    return error.exit_code
