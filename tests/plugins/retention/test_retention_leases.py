"""A lease and a deletion of the same checkpoint never both succeed: two processes race through a real broker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.retention.support import make
from tests.reading.real_broker import RealBroker
from trainbus.bus.client import Client
from trainbus.plugins.retention.verify import verify

RACER = Path(__file__).parent / "racer.py"


@pytest.fixture
def broker(trainbus_home):
    made = RealBroker(trainbus_home, synchronous="NORMAL")
    yield made
    made.stop()


def race(broker, out, rounds):
    make(out, 1)
    sides = [
        subprocess.Popen(
            [sys.executable, str(RACER), side, str(broker.root), str(out), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side in ("reader", "deleter")
    ]  # fmt: skip
    for side in sides:
        assert side.stdout.readline() == "enough\n"
    answers = []
    for side in sides:
        output, _ = side.communicate()
        assert side.returncode == 0
        answers.append(json.loads(output))
    return answers


@pytest.mark.parametrize("rounds", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_lease_raced_against_a_deletion(broker, tmp_path, rounds):
    """Whoever holds a lease reads a whole checkpoint; whoever deletes has it for himself; each is refused while the other holds it."""
    reader, deleter = race(broker, tmp_path / "out", rounds)
    assert reader["faults"] == deleter["faults"] == []
    for side in (reader, deleter):
        assert side["granted"] + side["refused"] >= rounds
        assert min(side["granted"], side["refused"]) > 0
    assert verify(tmp_path / "out/checkpoint-1").faults == ()
    with Client(root=broker.root) as client:
        assert client.leases() == []
