"""What protocol version 1 wrote is read for ever, and written the same way."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.protocol import examples
from tests.protocol.examples import DATA, all_examples, readable
from trainbus.bus import events, wire
from trainbus.bus.exchange import Ticket

STORED = sorted(DATA.glob("*.bin"))
RESULTS = {cls.__name__.lower(): cls for cls in vars(wire).values() if isinstance(cls, type) and issubclass(cls, msgspec.Struct)}


def through(name: str, data: bytes) -> bytes:
    """Decode as the bus does and encode again."""
    family, _, rest = name.partition("-")
    if family == "event":
        return events.encode(events.decode(data))
    if family == "frame":
        topic, payload = wire.split_frame(data)
        return wire.pack_frame(topic, msgspec.msgpack.decode(payload, type=RESULTS[rest]))
    if family == "result":
        return wire.encode(msgspec.msgpack.decode(data, type=RESULTS[rest]))
    return wire.encode(wire.decode_message(data))


def test_everything_that_travels_is_stored():
    """A new kind, message or request needs stored bytes: `python -m tests.protocol.examples` adds them."""
    assert {path.stem for path in STORED} == set(all_examples())


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_bytes_mean_what_the_json_beside_says(path):
    """The JSON is for other implementations: the same file is their test data."""
    assert readable(path.stem, path.read_bytes()) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", [path for path in STORED if "later_version" not in path.stem], ids=lambda path: path.stem)
def test_stored_bytes_decode_and_encode_to_themselves(path):
    """No field was removed, retyped or renamed, no default changed.

    An event is a map whose header msgspec sizes by how many fields its kind has, so a field more may widen it: that alone is passed over.
    """
    data = path.read_bytes()
    written = through(path.stem, data)
    if path.stem.startswith("event-"):
        written, data = (msgspec.msgpack.encode(msgspec.msgpack.decode(body)) for body in (written, data))
    assert written == data


def test_an_event_of_a_later_version_is_passed_on():
    """An unknown kind arrives as `Other` with all its fields."""
    event = events.decode((DATA / "event-of_a_later_version.bin").read_bytes(), 7)
    assert isinstance(event, events.Other)
    assert (event.kind, event.seq, event.offset, event.fields) == ("hologram", 3, 7, {"angle": 1.5, "tags": ["a"]})


@pytest.mark.parametrize("kind", events.BY_KIND)
def test_a_field_of_a_later_version_is_ignored(kind):
    """A reader that is older than the writer takes what it knows."""
    data = (DATA / f"event-{kind}.bin").read_bytes()
    extended = msgspec.msgpack.encode({**msgspec.msgpack.decode(data), "from_the_future": [1, 2]})
    assert events.encode(events.decode(extended, events.decode(data).offset)) == events.encode(events.decode(data))


@pytest.mark.parametrize("kind", events.BY_KIND)
def test_an_event_with_nothing_but_its_kind_is_whole(kind):
    """Fields that hold their default are left out, so every one must have a default."""
    assert events.decode(msgspec.msgpack.encode({"kind": kind})) == events.BY_KIND[kind]()


def test_stored_bytes_are_never_overwritten(tmp_path, monkeypatch, capsys):
    """The script adds, and complains of what differs."""
    monkeypatch.setattr(examples, "DATA", tmp_path)
    assert examples.main() == 0
    (tmp_path / "event-step.bin").write_bytes(b"as released")
    assert examples.main() == 1
    assert (tmp_path / "event-step.bin").read_bytes() == b"as released"
    assert "event-step.bin" in capsys.readouterr().err


def test_a_later_version_names_itself_and_silence_means_the_first(monkeypatch):
    """Defaults are left out on the wire: were the protocol's default its own version, a later one would pass for the first."""
    monkeypatch.setattr(wire, "PROTOCOL", 2)
    call = wire.decode_message(Ticket(1, wire.Status(), msgspec.msgpack.Decoder(wire.BrokerStatus)).frame)
    assert isinstance(call, wire.Call)
    assert call.protocol == 2
    for cls in (wire.Hello, wire.Welcome, wire.Call):
        defaults = dict(zip(reversed(cls.__struct_fields__), reversed(cls.__struct_defaults__), strict=False))
        assert defaults["protocol"] == wire.FIRST_PROTOCOL == 1
