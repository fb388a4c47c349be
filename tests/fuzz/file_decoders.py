"""What the trainer and the plugins read: data, other programs' logs, checkpoints and their markers, requests and answers over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from tests.fuzz.bus_decoders import Decoder
from tests.protocol.examples import example
from trainbus.bus import events
from trainbus.bus.values import without_surrogates
from trainbus.errors import DataError
from trainbus.plugins.anomaly import keeping, memory
from trainbus.plugins.anomaly.backtest import labels
from trainbus.plugins.inference import questions
from trainbus.plugins.inference.engines.openai import Completion
from trainbus.plugins.inference.faults import AskError
from trainbus.plugins.inference.http import accepted, decoded
from trainbus.plugins.retention import pins, recognition, scanning, verify, versions
from trainbus.plugins.retention.ledger import Entry, Ledger
from trainbus.plugins.sinks import tfevents
from trainbus.plugins.web import answering, steering
from trainbus.sources import feeds, histories
from trainbus.sources.patterns import LineReader, own_pattern
from trainbus.trainer_node import checkpoints, data
from trainbus.trainer_node.inbox import messages

ROWS = (
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
    {"instruction": "add", "input": "2 2", "output": "4"},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    {"prompt": "a", "completion": "b"},
    {"question": "größe?", "answer": "7 #### 7"},
    {"text": "plain"},
)
LOGGED = [{"step": number, "epoch": number / 9, "loss": 2.5 / number, "learning_rate": 1e-4, "grad_norm": 0.5} for number in range(1, 9)]
STATE = {"global_step": 8, "max_steps": 9, "log_history": LOGGED, "best_model_checkpoint": "x/checkpoint-8", "best_metric": 0.3}
PRINTED = (
    "{'loss': 1.23, 'grad_norm': 2.5, 'learning_rate': 1e-05, 'epoch': 0.5}\n 10%|█ | 1/10 [00:01<00:09,  1.00s/it]\r\n"
    "iter 10: loss 3.21, time 12.3ms, mfu 10.0%\nstep 250: train loss 2.1, val loss 2.2\n"
    "step    1/100 | train loss 10.98 | norm 3.1 | lr 1.00e-04 | 120 ms\n"
    "Epoch 0:  50%|█ | 5/10 [00:01<00:01, 4.2it/s, v_num=0, train_loss=1.2]\n"
)


def _file(name: str, read: Callable[[Path], object], *allowed: type[Exception]) -> Callable[[bytes, Path], None]:
    """Reads the bytes as a file of a name."""

    def attempt(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        with contextlib.suppress(*allowed):
            read(folder / name)

    return attempt


def _made(found: Iterable[events.AnyEvent]) -> None:
    """What is read can be published: it is encoded as the publisher does."""
    for event in found:
        events.encode(without_surrogates(event))


def _history(path: Path) -> None:
    _made(histories.read(path))


def _history_of(*suffixes: str) -> Callable[[bytes, Path], None]:
    def attempt(content: bytes, folder: Path) -> None:
        for suffix in suffixes:
            _file(f"log{suffix}", _history, DataError)(content, folder)

    return attempt


def _feed(name: str) -> Callable[[bytes, Path], None]:
    """A log that grows, damaged as it is: what is read becomes events, the rest is counted, and the reading goes on."""

    def attempt(content: bytes, folder: Path) -> None:
        file = folder / name
        half = len(content) // 2
        for written in (content[:half], content):
            file.write_bytes(written)
            log = folder if name.startswith("events.out") else file
            form = feeds.recognise(log)
            assert form is not None
            with contextlib.suppress(DataError):
                feed = feeds.feed_of(form, log, feeds.FeedPlace())
                _made(feed.look())

    return attempt


def _lines(content: bytes, folder: Path) -> None:
    reader = LineReader([own_pattern("mine", r"it (?P<step>\d+)/(?P<total_steps>\d+) loss=(?P<loss>\S+)")])
    for chosen in (reader, LineReader()):
        _made([*chosen.feed(content.decode("utf-8", "replace")), *chosen.end()])


def _training_data(content: bytes, folder: Path) -> None:
    for name in ("data.jsonl", "data.json"):
        for tolerant in (False, True):
            _file(name, lambda path, tolerant=tolerant: data.load_file(path, tolerant=tolerant), DataError)(content, folder)


def _questions(content: bytes, folder: Path) -> None:
    _file("exam.jsonl", questions.load, DataError)(content, folder)


def _answer(content: bytes, folder: Path) -> None:
    for status in (200, 500):
        with contextlib.suppress(AskError):
            decoded(accepted(status, content), Completion, "a chat completion")


def _steer(content: bytes, folder: Path) -> None:
    with contextlib.suppress(steering.RefusedRequest):
        steering.read(content)


def _query(content: bytes, folder: Path) -> None:
    """A parameter of any text is a number, or a refusal that a browser can show."""
    address = URL("/api/runs/r/series").with_query({"points": content[:2_000].decode("utf-8", "replace")})
    request = make_mocked_request("GET", str(address))
    with contextlib.suppress(web.HTTPBadRequest):
        value = answering.number(request, "points")
        assert value is None or isinstance(value, int)


def _checkpoint(content: bytes, folder: Path) -> None:
    """A checkpoint whose marker, state, pin and manifest are damaged is found broken, not in the way."""
    place = folder / "checkpoint-8"
    place.mkdir()
    for name in (
        events.MARKER,
        recognition.STATE_FILE,
        recognition.PIN,
        versions.MANIFEST,
        "config.json",
        "model.safetensors.index.json",
    ):
        (place / name).write_bytes(content)
    (place / "model.safetensors").write_bytes(WEIGHTS)
    checkpoints.read_marker(place)
    checkpoints.faults(place, contents=True)
    checkpoints.read_run_file(folder)
    pins.pin_of(place)
    versions.read_manifest(place)
    verify.verify(place)
    scanning.scan(folder)


def _weights(content: bytes, folder: Path) -> None:
    place = folder / "checkpoint-8"
    place.mkdir()
    (place / events.MARKER).write_bytes(b'{"files": {"model.safetensors": {"bytes": 1, "xxh3": "0"}}}')
    (place / "model.safetensors").write_bytes(content)
    verify.verify(place)
    keeping.verify(place)


def _ledger(content: bytes, folder: Path) -> None:
    _file("ledger.jsonl", lambda path: [entry.record() for entry in Ledger(path).entries()])(content, folder)


def _snapshot(content: bytes, folder: Path) -> None:
    place = folder / "run" / "one"
    place.mkdir(parents=True)
    (place / keeping.METADATA).write_bytes(content)
    keeping.snapshots(folder)


def _worker(content: bytes, folder: Path) -> None:
    with contextlib.suppress(*events.DECODE_ERRORS):
        msgspec.json.decode(content, type=messages.Message)


def _remembered(content: bytes, folder: Path) -> None:
    with contextlib.suppress(*events.DECODE_ERRORS):
        memory.decode(content)


WEIGHTS = b""


def _safetensors() -> bytes:
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


def _parquet(folder: Path) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "q", "answer": "a"}] * 3), folder / "t.parquet")
    return (folder / "t.parquet").read_bytes()


def file_decoders(folder: Path) -> list[Decoder]:
    """All of them; ``folder`` is where their corpora are made."""
    global WEIGHTS
    WEIGHTS = _safetensors()
    jsonl = "".join(json.dumps(row) + "\n" for row in ROWS[4:5] * 4).encode()
    each = [json.dumps(row).encode() + b"\n" for row in ROWS]
    logged = "".join(json.dumps(row) + "\n" for row in LOGGED).encode()
    table = b"step,loss,learning rate\n" + b"".join(b"%d,%.3f,1e-4\n" % (row["step"], row["loss"]) for row in LOGGED)
    state = json.dumps(STATE).encode()
    board = b"".join(tfevents.record(tfevents.scalars(1.0, int(row["step"]), [("train/loss", row["loss"])])) for row in LOGGED)
    exported = msgspec.json.encode(example(events.Step)) + b"\n"
    marker = msgspec.json.encode(
        {"id": "r:8:d", "run": "r", "step": 8, "files": {"model.safetensors": {"bytes": 1, "xxh3": "0"}}, "metrics": {"loss": 1.0}}
    )
    completion = b'{"choices": [{"message": {"role": "assistant", "content": "4"}}]}'
    steers = [
        b'{"verb": "set", "arguments": {"learning_rate": 1e-5}}',
        b'{"verb": "pin", "plugin": "retention", "arguments": {"checkpoint": "c"}}',
    ]
    label = (
        b'{"runs": [{"file": "a.csv", "repo": "w/w", "labels": [{"kind": "nan", "start_step": 20, "end_step": 30, "confidence": "high"}]}]}'
    )
    snapshot = b'{"run": "r", "step": 3, "alert": {"rule": "nan"}, "checkpoint": {"id": "c"}, "made": 1.0}'
    listed = b"[" + b",".join(one.strip() for one in each[4:5] * 3) + b"]"
    worker = [msgspec.json.encode(messages.Step(step=1, total=2, loss=0.5)), msgspec.json.encode(messages.Note(text="x"))]
    return [
        Decoder(
            "training data", [jsonl, *each, gzip.compress(jsonl), _parquet(folder), listed, b"\x28\xb5\x2f\xfd" + jsonl], _training_data
        ),
        Decoder(
            "histories",
            [table, table.replace(b",", b";"), logged, exported, state, PRINTED.encode()],
            _history_of(".csv", ".jsonl", ".json", ".log"),
        ),
        Decoder("TensorBoard files", [board], _file("events.out.tfevents.1", lambda path: _history(path.parent), DataError)),
        Decoder("TensorBoard files that grow", [board], _feed("events.out.tfevents.1")),
        Decoder("JSONL logs that grow", [logged, exported], _feed("log.jsonl")),
        Decoder("trainer states that grow", [state], _feed("trainer_state.json")),
        Decoder("lines of output", [PRINTED.encode(), b"it 3/9 loss=1.5\n"], _lines),
        Decoder("labels of a backtest", [label], _file("labels.json", labels.read_labels, DataError)),
        Decoder("questions", [b'{"question": "2+2?", "answer": "4"}\n', *each], _questions),
        Decoder("answers of a model server", [completion, b'{"error": {"message": "no"}}'], _answer),
        Decoder("requests to steer", steers, _steer),
        Decoder("parameters of requests", [b"100", b"-5", b"1_000", "٣".encode()], _query),
        Decoder("checkpoints' files", [marker, state, snapshot], _checkpoint),
        Decoder("weights", [WEIGHTS], _weights),
        Decoder("the ledger of the trash", [msgspec.json.encode(example(Entry)) + b"\n"], _ledger),
        Decoder("snapshots", [snapshot], _snapshot),
        Decoder("a worker's messages", worker, _worker),
        Decoder("what the detector remembers", [memory.encode(memory.RunMemory())], _remembered),
    ]
