"""The conversation of ``trainbus infer --interactive``: reads lines, asks, streams answers, obeys commands that begin with a slash."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from trainbus.bus.home import home, private_directory
from trainbus.cli.infer_models import Where, opened
from trainbus.cli.infer_print import Printer, print_statistics
from trainbus.cli.output import note, print_error
from trainbus.errors import TrainbusError
from trainbus.inferring.asking import Asked, Sampling
from trainbus.inferring.conversation import Conversation

PROMPT = ">>> "
MORE = "... "
HISTORY_LINES = 1000
QUIT = ("/quit", "/exit", "quit", "exit")
SETTINGS: dict[str, Callable[[str], Any]] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "seed": int,
}
HELP = """\
/model NAME        go on with another model: a folder, RUN:STEP, RUN:latest, RUN:best, a name on the server
/system TEXT       set the system message; without TEXT there is none
/set NAME VALUE    set max_tokens, temperature, top_k, top_p, repetition_penalty or seed; without NAME show them
/retry             ask the last question again
/clear             forget the conversation
/save FILE         add the conversation to FILE as a line of training data
/help              show this
/quit              end, as Ctrl-D does
A line that ends in \\ goes on in the next. Ctrl-C ends an answer, which is forgotten with its question."""


def chat(name: str, where: Where, sampling: Sampling, system: str) -> None:
    """Talk until the input ends.

    Raises:
        TrainbusError: The first model can't be opened; what goes wrong later is told, and the conversation goes on.
    """
    with _Chat(where, sampling, Conversation(system)) as session:
        session.open(name)
        session.talk()


class _Chat:
    def __init__(self, where: Where, sampling: Sampling, conversation: Conversation) -> None:
        self._where = where
        self._sampling = sampling
        self._conversation = conversation
        self._model: Asked | None = None
        self._opened = ExitStack()
        self._terminal = sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/model": self._change_model,
            "/system": self._set_system,
            "/set": self._set,
            "/retry": self._retry,
            "/clear": self._clear,
            "/save": self._save,
            "/help": self._help,
        }

    def __enter__(self) -> _Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def open(self, name: str) -> None:
        """Ask this model from now on. The one before is let go only when the new one is there."""
        stack = ExitStack()
        self._model = stack.enter_context(opened(name, self._where))
        self._opened.close()
        self._opened = stack
        note(f"{self._model.name} answers. /help explains, Ctrl-D ends." if self._terminal else f"{self._model.name} answers.")

    def talk(self) -> None:
        """Until the input ends."""
        with _history(self._terminal):
            going = True
            while going:
                try:
                    going = self._turn()
                except KeyboardInterrupt:
                    note("\nstopped")

    def _turn(self) -> bool:
        """One line, and what it asks for; False when it was the last."""
        line = self._read()
        if line is None or line.strip().lower() in QUIT:
            return False
        try:
            if line.lstrip().startswith("/"):
                self._obey(line.strip())
            elif line.strip():
                self._ask(line.strip())
        except TrainbusError as error:
            print_error(error)
        return True

    def _read(self) -> str | None:
        """A line, with those that it goes on in; None at the end."""
        lines: list[str] = []
        while True:
            try:
                line = input((MORE if lines else PROMPT) if self._terminal else "")
            except EOFError:
                if self._terminal:
                    click.echo()
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                note("\nCtrl-D ends, /help explains.")
                lines = []
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _ask(self, question: str) -> None:
        assert self._model is not None, "a conversation begins with a model"
        printer = Printer()
        try:
            answer = self._model.ask(self._conversation.messages(question), self._sampling, printer.piece)
        finally:
            printer.end()
        self._conversation.add(question, answer.text)
        if self._terminal:
            print_statistics(answer, self._model.name)

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        command = self._commands.get(word.lower())
        if command is None:
            near = difflib.get_close_matches(word, self._commands, n=1)
            note(f"There is no {word}. {f'Did you mean {near[0]}?' if near else '/help shows what there is.'}")
            return
        command(rest.strip())

    def _change_model(self, name: str) -> None:
        if name:
            self.open(name)
        elif self._model is not None:
            note(f"{self._model.name} answers. /model NAME changes it.")

    def _set_system(self, text: str) -> None:
        self._conversation.system = text
        note("The system message is set." if text else "There is no system message.")

    def _set(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ").partition(" ")
        if name in SETTINGS:
            try:
                self._sampling = structs.replace(self._sampling, **{name: SETTINGS[name](value)}).clamped()
            except ValueError:
                note(f"{value.strip() or 'nothing'!r} is no value of {name}.")
                return
        elif name:
            note(f"There is no setting {name}; there are {', '.join(SETTINGS)}.")
            return
        shown = ((key, getattr(self._sampling, key)) for key in SETTINGS)
        note(", ".join(f"{key} {value}" for key, value in shown if value is not None))

    def _retry(self, _: str) -> None:
        question = self._conversation.take_back()
        if question is None:
            note("Nothing was asked yet.")
        else:
            self._ask(question)

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        note("The conversation begins anew.")

    def _save(self, path: str) -> None:
        if not path:
            note("/save FILE: name the file.")
        elif not len(self._conversation):
            note("There is nothing to save yet.")
        else:
            assert self._model is not None, "a conversation begins with a model"
            file = Path(path).expanduser()
            self._conversation.save(file, self._model.name)
            note(f"Added to {file}: {len(self._conversation)} questions with their answers.")

    def _help(self, _: str) -> None:
        note(HELP)


@contextlib.contextmanager
def _history(terminal: bool) -> Iterator[None]:
    """Lines can be edited, and those of earlier conversations come back with the arrow keys, where this Python has readline."""
    try:
        import readline
    except ImportError:
        terminal = False
    if not terminal:
        yield
        return
    file = home() / "infer_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            private_directory(file.parent)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # questions are nobody else's business
            readline.write_history_file(file)
