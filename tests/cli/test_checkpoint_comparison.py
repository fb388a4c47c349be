"""`trainbus checkpoints compare`: by what the journal has of both checkpoints' answers."""

from __future__ import annotations

import json

import pytest

import trainbus
from trainbus.bus.events import Sample
from trainbus.cli.app import run as command_line
from trainbus.testing.hosted import LocalBus


@pytest.fixture
def cli(capsys):
    """Runs the command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = command_line(["checkpoints", "compare", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments and code == 0 else captured.out + captured.err

    return call


@pytest.fixture
def examined(trainbus_home):
    """A run with three checkpoints: the second is better by far, the third by one answer; ids of them."""
    with LocalBus(trainbus_home) as bus:
        with trainbus.init("r", run="r", root=bus.root) as run:
            ids = [run.checkpoint(f"/runs/r/{step}", step=step, digest=f"{step:016}") for step in (1, 2, 3)]
            for step, identity in zip((1, 2, 3), ids, strict=True):
                for n in range(10):
                    right = n < (1, 9, 10)[step - 1]
                    run.publish(Sample(step=step, example=f"q{n}", dataset="sums", checkpoint=identity, correct=right))
        assert run.close(timeout=20)
        yield ids


def test_a_difference_is_told_from_noise(cli, examined):
    """By id or by step; as a table and as JSON."""
    code, found = cli(examined[0], examined[1], "--json")
    assert code == 0
    told = found["datasets"]["sums"]
    assert (told["judged"], told["better"], told["worse"], told["says"], told["noise"]) == (10, 8, 0, "better", False)
    assert (told["before"], told["after"], told["p_value"]) == (0.1, 0.9, pytest.approx(2 / 2**8))
    code, found = cli(3, 2, "--run", "r", "--json")
    assert (code, found["before"], found["datasets"]["sums"]["worse"], found["datasets"]["sums"]["says"]) == (0, examined[2], 1, "noise")
    code, text = cli(2, 1, "--run", "r")
    assert code == 0
    assert "worse" in text
    assert examined[1] in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("1", "7", "--run", "r"), "no judged answers of a checkpoint of step 7 of r"),
        (("r@9:abc", "1", "--run", "r"), "no judged answers of the checkpoint r@9:abc"),
        (("1", "2", "--run", "other"), "The journal knows no run 'other'"),
        (("1", "2", "--run", "r", "--dataset", "chess"), "have no judged question of chess in common (asked: sums)"),
    ],
)
def test_what_cannot_be_compared_is_said_with_what_to_do(arguments, told, cli, examined):
    """Never an empty table."""
    code, text = cli(*arguments)
    assert code == 4
    assert told in " ".join(text.split())
