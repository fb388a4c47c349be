"""What the pages only show is still looked at, as far as a program here can tell that it is well formed."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import BLOCKS, ROOT
from tests.support import trainbus

SHOWN = [(block, command) for block in BLOCKS if block.mark == "shown:" for command in block.commands]


def commands(program: str) -> list:
    """The shown commands of a program, those behind ``&&`` too."""
    found = []
    for block, line in SHOWN:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words and words[0] == program:
                found.append(pytest.param(words, id=f"{block.place} {part.strip()}"))
    return found


@pytest.mark.parametrize("words", commands("make"))
def test_make_knows_each_target(words):
    """And the variables that it is given; nothing of it is done."""
    if shutil.which("make") is None:
        pytest.skip("make is not here")
    done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text()
    for word in words[1:]:
        name, given, _ = word.partition("=")
        assert (f"$({name})" in makefile) if given else (f"\n{name}:" in makefile), word


@pytest.mark.parametrize("words", commands("ssh"))
def test_ssh_understands_each_command(words):
    """Its forwarded ports and its host, without a connection."""
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not here")
    done = subprocess.run(["ssh", "-G", "-F", "none", *words[1:]], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    settings = done.stdout.splitlines()
    assert f"hostname {words[-1]}" in settings
    forwarded = [line.split()[1:] for line in settings if line.startswith("localforward ")]
    wanted = [word.split(":") for word in words if word.count(":") == 2]
    assert forwarded == [[port, f"[{host}]:{there}"] for port, host, there in wanted]
    assert forwarded


@pytest.mark.parametrize("options", [(), ("--system",)], ids=["user", "system"])
def test_the_unit_that_is_printed_is_one(options, tmp_path):
    """Its sections and keys are read by any parser of units; systemd itself finds nothing to complain about, where it is here."""
    text = trainbus("service", *options).stdout
    unit = configparser.RawConfigParser(strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    unit.optionxform = str
    unit.read_string(text)
    assert unit.sections() == ["Unit", "Service", "Install"]
    program = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program[0]).is_file()
    assert "up" in program
    assert shlex.split(unit["Service"]["ExecReload"])[-1] == "reload" or "reload" in unit["Service"]["ExecReload"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    (file := tmp_path / "trainbus.service").write_text(text)
    scope = [] if options else ["--user"]
    done = subprocess.run(["systemd-analyze", *scope, "verify", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert "trainbus.service" not in done.stderr, done.stderr


def test_systemd_is_told_words_that_it_knows():
    """Where its programs are here: each subcommand is one of theirs."""
    found = [words.values[0] for program in ("systemctl", "loginctl") for words in commands(program)]
    assert found
    for words in found:
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not here")
        helped = subprocess.run([words[0], "--help"], capture_output=True, text=True, check=False, timeout=60).stdout
        verb = next(word for word in words[1:] if not word.startswith("-"))
        assert f"\n  {verb} " in helped, words


def test_every_program_that_is_only_shown_is_looked_at_or_is_known_to_be_out_of_reach():
    """A new one gets a check above, or a reason here."""
    out_of_reach = {"pip": "an index", "tensorboard": "a page", "accelerate": "processes", "trainbus": "checked against its parser"}
    programs = {shlex.split(part)[0] for _, line in SHOWN for part in line.split("&&")}
    assert programs <= {"make", "ssh", "systemctl", "loginctl", *out_of_reach}
