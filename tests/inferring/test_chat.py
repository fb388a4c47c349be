"""`trainbus infer --interactive` in a real terminal and in a pipe."""

from __future__ import annotations

import json
import sys

import pytest

from tests.inferring.terminal import Terminal
from tests.support import trainbus
from trainbus.errors import DataError
from trainbus.inferring.conversation import Conversation


def line(stand_in, model="echo", *more):
    return [sys.executable, "-m", "trainbus", "infer", "--server", stand_in.url, "--model", model, *more]


def test_a_conversation_streams_keeps_history_and_obeys_commands(stand_in, tmp_path, trainbus_home):
    """What was said is sent again; another model goes on with it; it is saved as training data; Ctrl-D ends it with 0."""
    saved = tmp_path / "saved.jsonl"
    terminal = Terminal(line(stand_in))
    terminal.read_until(b"Ctrl-D ends")
    terminal.read_until(b">>> ")
    terminal.type(b"hello there\r")
    terminal.read_until(b"hello there\r\n")  # its own echo
    terminal.read_until(b"hello there\r\n")
    terminal.read_until(b"2 tokens")
    terminal.read_until(b">>> ")
    terminal.type(b"/model upper\r")
    terminal.read_until(b"upper answers")
    terminal.read_until(b">>> ")
    terminal.type(b"and \\\r")
    terminal.read_until(b"... ")
    terminal.type(b"again\r")
    terminal.read_until(b"AND")
    terminal.read_until(b"AGAIN\r\n")
    terminal.read_until(b">>> ")
    assert [message["role"] for message in stand_in.asked[-1]["messages"]] == ["user", "assistant", "user"]
    terminal.type(b"/set temperature 0.7\r")
    terminal.read_until(b"/set temperature 0.7\r\n")
    terminal.read_until(b"temperature 0.7")
    terminal.read_until(b">>> ")
    terminal.type(b"/retry\r")
    terminal.read_until(b"AGAIN\r\n")
    terminal.read_until(b">>> ")
    assert (stand_in.asked[-1]["temperature"], len(stand_in.asked[-1]["messages"])) == (0.7, 3)
    terminal.type(f"/save {saved}\r".encode())
    terminal.read_until(b"2 questions with their answers")
    terminal.read_until(b">>> ")
    terminal.type(b"/help\r")
    terminal.read_until(b"/system TEXT")
    terminal.read_until(b">>> ")
    terminal.type(b"/sav\r")
    terminal.read_until(b"Did you mean /save?")
    terminal.read_until(b">>> ")
    terminal.type(b"\x04")
    assert terminal.end() == 0
    told = json.loads(saved.read_text())
    assert [message["content"] for message in told["messages"]] == ["hello there", "hello there", "and \nagain", "AND \nAGAIN"]
    assert told["model"] == "upper"
    assert (trainbus_home / "infer_history").stat().st_mode & 0o777 == 0o600
    assert "/model upper" in (trainbus_home / "infer_history").read_text()


def test_ctrl_c_ends_an_answer_and_the_conversation_goes_on(stand_in):
    """The server is told by the end of the connection; the broken question is forgotten; at the prompt Ctrl-C ends nothing."""
    terminal = Terminal(line(stand_in, "slow"))
    terminal.read_until(b">>> ")
    terminal.type(b"a question\r")
    terminal.read_until(b"first")
    terminal.type(b"\x03")
    terminal.read_until(b"stopped")
    assert stand_in.gone.wait(60)
    terminal.read_until(b">>> ")
    terminal.type(b"half a li\x03")
    terminal.read_until(b"Ctrl-D ends")
    terminal.read_until(b">>> ")
    terminal.type(b"/model echo\r")
    terminal.read_until(b"echo answers")
    terminal.read_until(b">>> ")
    terminal.type(b"still here\r")
    terminal.read_until(b"still here\r\n")
    terminal.read_until(b"still here\r\n")
    assert [message["content"] for message in stand_in.asked[-1]["messages"]] == ["still here"]
    terminal.read_until(b">>> ")
    terminal.type(b"/quit\r")
    assert terminal.end() == 0


def test_an_answer_can_not_command_the_terminal(stand_in):
    """Escape sequences are left out; in a pipe the answer is as it came."""
    stand_in.answer = lambda body: "safe \x1b]0;owned\x07\x1b[2Jtext"
    terminal = Terminal([*line(stand_in), "--prompt", "x"])
    assert b"safe ]0;owned[2Jtext" in terminal.read_until(b"text")
    assert terminal.end() == 0
    assert trainbus("infer", "--server", stand_in.url, "--prompt", "x").stdout == "safe \x1b]0;owned\x07\x1b[2Jtext\n"


def test_a_piped_conversation_ends_with_0_and_an_error_in_it_is_told_and_ends_nothing(stand_in):
    """Answers go to the output, everything else beside it."""
    said = "one\n/model nobody\ntwo\n\n/model echo\n/system be brief\n/clear\n/save\nthree\nquit\nfour\n"
    done = trainbus("infer", "--server", stand_in.url, "--model", "upper", "--interactive", input=said)
    assert (done.returncode, done.stdout) == (0, "ONE\nthree\n")
    assert "no model nobody" in done.stderr
    assert stand_in.asked[-1]["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "three"}]
    assert trainbus("infer", "--server", stand_in.url, "--interactive", input="").returncode == 0


def test_a_conversation_is_saved_as_one_line_also_behind_a_torn_one(tmp_path):
    """So that several conversations make a file to train on; what can't be written is told."""
    file = tmp_path / "talk.jsonl"
    file.write_text('{"torn": 1}')
    talk = Conversation("be kind")
    talk.add("q", "a")
    talk.save(file, "m")
    talk.save(file, "m")
    lines = file.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["messages"][0] == {"role": "system", "content": "be kind"}
    with pytest.raises(DataError, match="can't be written"):
        talk.save(tmp_path, "m")
