"""Nothing that is read from outside can do more than be refused: every decoder, on damaged bytes.

The fast tests try a few examples of each, always the same. The slow one, in `make test-all`, searches for ten minutes from a new seed
each time; ``TRAINBUS_FUZZ_SECONDS`` sets another budget. A failure names seed and bytes; ``TRAINBUS_FUZZ_SEED`` begins there.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.bus_decoders import Decoder, bus_decoders
from tests.fuzz.damage import damaged
from tests.fuzz.file_decoders import file_decoders
from tests.fuzz.model_decoders import model_decoders

# Read here, since no test sees variables with this prefix.
SECONDS = float(os.environ.get("TRAINBUS_FUZZ_SECONDS", "600"))
SEED = os.environ.get("TRAINBUS_FUZZ_SEED", "")

FEW = 12
"""Examples of each decoder in the fast tests: that the harness works, and the grossest damage."""
ROUND = 50
"""Examples of one decoder between two looks at the clock."""
MEMORY = Path("/dev/shm")
"""A file system in memory: a folder for each example costs more than the decoder on most disks."""


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """All decoders by name, with their corpora."""
    folder = tmp_path_factory.mktemp("corpora")
    return {decoder.name: decoder for decoder in (*bus_decoders(folder), *file_decoders(folder), *model_decoders(folder))}


def search(decoder: Decoder, folder: Path, examples: int, number: int) -> None:
    """Feed damaged bytes to a decoder; an error of the wrong kind fails, made as small as possible."""

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck)
    )
    @given(content=damaged(decoder.corpus))
    def attempt(content: bytes) -> None:
        place = folder / "fuzz"
        place.mkdir()
        try:
            decoder.read(content, place)
        finally:
            shutil.rmtree(place)

    try:
        attempt()
    except BaseException as error:
        error.add_note(f"decoder: {decoder.name}, TRAINBUS_FUZZ_SEED={number}")
        raise


def test_every_decoder_takes_what_is_good(decoders, tmp_path):
    """The corpora are what is really written: otherwise damage would be all that is ever tried."""
    assert len(decoders) >= 50
    for decoder in decoders.values():
        assert decoder.corpus
        for number, content in enumerate(decoder.corpus):
            (place := tmp_path / f"{number}").mkdir()
            decoder.read(content, place)
            shutil.rmtree(place)


def test_damaged_bytes_are_refused_by_every_decoder(decoders, tmp_path):
    """A few examples of each, the same at every run."""
    for number, decoder in enumerate(decoders.values()):
        search(decoder, tmp_path, FEW, number)


def test_a_decoder_that_lets_an_error_through_is_noticed(tmp_path):
    """The search can fail, and says what to run again."""

    def read(content: bytes, folder: Path) -> None:
        if b"\xff" in content:
            raise KeyError("nobody expects this")

    with pytest.raises(KeyError) as caught:
        search(Decoder("careless", [b"\xff\x00"], read), tmp_path, 200, 1)
    assert "TRAINBUS_FUZZ_SEED=1" in "".join(caught.value.__notes__)


DEEP = 50_000
FOUND = [
    (
        "frames to the broker",
        b"\x82\xa4type\xa4call\xa7request\x83\xa2op\xabsendcommand\xa3run\xa1r\xa9arguments\x81\xa1a" + b"\x91" * DEEP,
    ),
    ("frames to the broker", b"\x82\xa4kind\xa5comet\xa4tail" + b"\x91" * DEEP),
    ("answers to clients", b"\x82\xa4type\xa7failure\xa7problem\xa2\xff\xfe"),
    ("messages to publishers", b"\x82\xa4type\xa3ack\xa6source\xa2\xff\xfe"),
    ("the fan-out", b"step.r\0\x92\x00\x91\x92\xa1\xff\x00"),
    ("reports of plugins", b'{"type":"refusal","error":"\xff"}'),
    ("state of plugins", b"\x91" * DEEP),
    ("the connection file", b'{"router":"\xff"}'),
    ("the book of keys", b'{"public_key":"\xff"}'),
    ("the configuration", b"a = " + b"[" * DEEP),
    ("the configuration", b"# = 3"),
    ("requests to steer", b'{"verb":"save","reason":"\xff"}'),
    ("training data", b"[" * DEEP),
    ("histories", b'step,loss\n1,"' + b"x" * 140_000),
    ("histories", b"0"),
    ("histories", b'{"kind":"step","source":"s","metrics":{"loss":null}}'),
    ("histories", b"step,loss,time\n1" + b"0" * 40 + b",1.0,1" + b"0" * 300 + b"\n"),
    ("JSONL logs that grow", b'{"step":1,"loss":1' + b"0" * 400 + b',"time":1' + b"0" * 400 + b"}\n"),
    ("lines of output", b"{'loss': 1.0, 'epoch': 1" + b"0" * 400 + b"}\n"),
    ("lines of output", b"Epoch 1" + b"0" * 5_000 + b":  50%|# | 5/10 [00:01<00:01, train_loss=1.2]\n"),
    ("lines of output", b" 10%|# | 1/1" + b"0" * 90 + b" [00:01<00:09]\n{'loss': 1.5, 'epoch': 0.5}\n"),
    ("TensorBoard files", b"\x09" + b"\0" * 11 + b"\x09" + b"\0" * 8 + b"\0" * 4),
    ("trainer states that grow", b"[" * DEEP),
    ("labels of a backtest", b'[{"file": "a", "labels": [{"\\ud800": 1}]}]'),
    ("checkpoints' files", b"[" * DEEP),
    ("heads of weights", b'{"w": {"shape": [4]}}'),
    ("heads of weights", b"[" * DEEP),
    ("what the trainer keeps", b'{"timestamp":"t\xfe"}\n'),
    ("what the trainer keeps", b'{"recent":' + b"[" * DEEP),
    ("markers that are thinned", b'z"id": "r:8:d"}'),
    ("markers that are thinned", b'{"files": 5}'),
    ("what retention keeps", b""),
    ("the kernel's files", b"1 (python) S ; " + b"1 " * 40),
    ("the ledger of a command's processes", b'z"r", 1, 2]\n'),
    ("weights", (8 * DEEP).to_bytes(8, "little") + b"[" * 8 * DEEP),
]
"""What the search has found. Each of these once ended a process with a traceback."""


@pytest.mark.parametrize(("name", "content"), FOUND, ids=[f"{name} {content[:20]!r}" for name, content in FOUND])
def test_what_was_found_is_refused(decoders, tmp_path, name, content):
    """Nests that are too deep and texts that are no UTF-8 are no errors of the decoders' own."""
    decoders[name].read(content, tmp_path)


def test_a_damaged_schema_that_is_no_utf8_is_refused(decoders, tmp_path):
    """SQLite quotes it in its message, which Python then can't read."""
    journal = decoders["the journal file"]
    for damage in (b"\xc5REATE", b"CREA\xff\xff"):
        (place := tmp_path / damage.hex()).mkdir()
        journal.read(journal.corpus[0].replace(b"CREATE", damage), place)


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_ten_minutes_of_damage(decoders, workplace, budget):
    """The budget is shared out among the decoders in rounds, so that each gets its part whatever one example costs."""
    seconds, first = budget
    end, number = time.monotonic() + seconds, first
    spent = dict.fromkeys(decoders, 0.0)
    tried = dict.fromkeys(decoders, 0)
    while time.monotonic() < end:
        name = min(spent, key=spent.__getitem__)
        began = time.monotonic()
        search(decoders[name], workplace, ROUND, number)
        spent[name] += time.monotonic() - began
        tried[name] += ROUND
        number += 1
        gc.collect()
    print(f"\nseeds {first} to {number - 1}: " + ", ".join(f"{name} {count:,}" for name, count in tried.items()))  # noqa: T201
    assert all(tried.values()), f"the budget of {seconds:g} s was too short for {[name for name, count in tried.items() if not count]}"


@pytest.fixture
def workplace(tmp_path):
    """Where the examples' files are, in memory if that is to be had."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="trainbus-fuzz-") as folder:
        yield Path(folder)


@pytest.fixture
def budget():
    """Seconds of the long search, and its first seed."""
    return SECONDS, int(SEED) if SEED else random.SystemRandom().randrange(10**9)
