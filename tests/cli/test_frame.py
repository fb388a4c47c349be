"""The command line's frame: what help costs, and how each way to fail ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from tests.support import trainbus
from trainbus import errors
from trainbus.cli import app
from trainbus.cli.lazy import LAZY, Lazy


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Put a command into the table whose body is the given function."""

    def _failing(body):
        @click.command()
        @click.option("--json", "as_json", is_flag=True)
        def command(as_json):
            return body()

        module = type(sys)("trainbus_test_command")
        module.command = command
        monkeypatch.setitem(sys.modules, "trainbus_test_command", module)
        monkeypatch.setitem(app.cli.table, "boom", Lazy("Setup", "trainbus_test_command:command", "Fails."))

    return _failing


def test_help_loads_neither_torch_nor_the_bus():
    """`trainbus --help` imports click and the table of commands, so that it is there at once."""
    heavy = ["torch", "transformers", "aiohttp", "numpy", "zmq", "rich", "msgspec", "pluggy"]
    program = f"""if True:
        import sys
        from trainbus.cli import app
        assert app.run(["--help"]) == 0
        loaded = [name for name in {heavy} if name in sys.modules]
        sys.exit(f"loaded: {{loaded}}" if loaded else 0)
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_help_lists_every_command_in_its_group():
    """The table is the help."""
    shown = trainbus("--help").stdout
    for name, lazy in LAZY.items():
        assert f"{lazy.group}:" in shown
        assert f"  {name} " in shown


def test_version_is_the_packages():
    """`trainbus --version` names it."""
    from trainbus import __version__

    assert trainbus("--version").stdout == f"trainbus {__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    """A typing mistake costs one look."""
    assert app.run(["tial"]) == 2
    assert "Did you mean `tail`" in capsys.readouterr().err


@pytest.mark.parametrize("error", [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TrainbusError)])
def test_an_error_ends_with_its_own_code_and_says_what_to_do(failing, capsys, error):
    """Problem, hint and facts on stderr; nothing on stdout."""

    def body():
        raise error("The thing is broken.", hint="Mend it.", file="some/file")

    failing(body)
    assert app.run(["boom"]) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: The thing is broken.", "hint:  Mend it.", "       file: some/file"]


def test_with_json_an_error_is_a_document(failing, capsys):
    """A script reads stdout whatever happens."""

    def body():
        raise errors.RefusedError("No.", hint="Ask.", code_of_refusal="conflict")

    failing(body)
    assert app.run(["boom", "--json"]) == 4
    expected = {"error": {"code": "refused", "problem": "No.", "hint": "Ask.", "code_of_refusal": "conflict"}}
    assert json.loads(capsys.readouterr().out) == expected


def test_an_unforeseen_exception_is_one_line_and_70(failing, capsys, monkeypatch):
    """No traceback reaches a user who doesn't ask for it."""

    def body():
        raise ZeroDivisionError("oh")

    failing(body)
    assert app.run(["boom"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("error: ZeroDivisionError: oh")
    assert "Traceback" not in err
    monkeypatch.setenv("TRAINBUS_DEBUG", "1")
    assert app.run(["boom"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_is_named(failing, capsys):
    """A machine that only watches has no torch; the message says what to install."""

    def body():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    failing(body)
    assert app.run(["boom"]) == 1
    assert "pip install 'trainbus[trainer]'" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(failing):
    """Ctrl-C is no error."""

    def body():
        raise KeyboardInterrupt

    failing(body)
    assert app.run(["boom"]) == 130


def test_a_command_chooses_its_exit_code(failing):
    """By returning it."""
    failing(lambda: 5)
    assert app.run(["boom"]) == 5


def test_a_reader_that_goes_away_is_no_traceback():
    """`trainbus schema | head -c 1`: quiet, and the exit code that a killed writer would have."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from trainbus.cli import app; sys.stdin.read(); sys.exit(app.run(['schema']))"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(180) == 141
    process.stderr.close()


def test_colours_end_where_nobody_sees_them():
    """A pipe gets plain text even when the environment says that the terminal has colours."""
    result = trainbus("nonsense", env={**os.environ, "TERM": "xterm-256color"})
    assert result.returncode == 2
    assert "\x1b" not in result.stderr
