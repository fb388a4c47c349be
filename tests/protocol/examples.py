"""One full example of everything that travels, made from the Structs: every field holds something that is not its default.

Also the script that stores them:  python -m tests.protocol.examples

Stored bytes are what released versions have written. They are never overwritten: when the script finds a difference, a field was
retyped or removed (then `trainbus.bus.wire.PROTOCOL` must rise and a new folder begins) or added (then the old bytes stay, and say
how readers take an event that lacks the field).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from trainbus.bus import events, wire

DATA = Path(__file__).parent.parent / "data" / f"protocol-{wire.PROTOCOL}"


def example(cls: type[msgspec.Struct]) -> Any:
    """An instance whose fields all differ from their defaults."""
    described = types.type_info(cls)
    values = {field.name: _value(field.type, field) for field in described.fields}
    return cls(**values)


def _value(kind: types.Type, field: types.Field) -> Any:
    if isinstance(kind, types.Metadata):
        return _value(kind.type, field)
    if isinstance(kind, types.UnionType):
        return _value(next(member for member in kind.types if not isinstance(member, types.NoneType)), field)
    if isinstance(kind, types.LiteralType):
        return [value for value in kind.values if value != field.default][-1]
    if isinstance(kind, types.StructType):
        return example(kind.cls)
    if isinstance(kind, types.RawType):
        return msgspec.Raw(msgspec.msgpack.encode({"answer": 42}))
    if isinstance(kind, types.DictType):
        inner = _value(kind.value_type, field)
        return {"loss": math.nan, "grad_norm": math.inf, "learning_rate": 1e-4} if isinstance(inner, float) else {"größe": inner}
    if isinstance(kind, types.ListType):
        return [_value(kind.item_type, field)]
    if isinstance(kind, types.TupleType):
        return tuple(_value(item, field) for item in kind.item_types)
    plain = {types.IntType: 70_000, types.FloatType: 0.25, types.StrType: f"{field.name} ✓", types.BoolType: not field.default}
    return plain.get(type(kind), b"\x00bytes\xff" if isinstance(kind, types.BytesType) else "anything")


def _body(event: events.Event) -> events.Event:
    event.offset = -1  # a body never holds it: the broker sends it beside
    return event


def all_examples() -> dict[str, bytes]:
    """File name (without suffix) and bytes of each."""
    found = {f"event-{kind}": events.encode(_body(example(cls))) for kind, cls in events.BY_KIND.items()}
    found["event-of_a_later_version"] = msgspec.msgpack.encode(
        {"kind": "hologram", "run": "r", "source": "s", "seq": 3, "time": 4, "angle": 1.5, "tags": ["a"]}
    )
    for cls in wire.AnyMessage.__args__:
        if cls is not wire.Call:
            found[f"message-{cls.__struct_config__.tag}"] = wire.encode(example(cls))
    for cls in wire.AnyRequest.__args__:
        found[f"call-{cls.__struct_config__.tag}"] = wire.encode(wire.Call(id=70_000, request=example(cls)))
    found["frame-fanout"] = wire.pack_frame(wire.topic("step", "my run").encode(), example(wire.Fanout))
    found["frame-commit"] = wire.pack_frame(wire.COMMIT_TOPIC, example(wire.Commit))
    for cls in (wire.Page, wire.RunInfo, wire.Cursor, wire.DeadLetter, wire.Lease, wire.BrokerStatus, wire.PluginStatus):
        found[f"result-{cls.__name__.lower()}"] = wire.encode(example(cls))
    return found


def readable(name: str, data: bytes) -> Any:
    """What msgpack bytes hold, as JSON can say it: ``{"bytes": hex}`` and ``{"float": "nan"}`` stand for what it can't."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    if name.startswith("frame-"):
        topic, payload = wire.split_frame(data)
        return {"topic": topic.decode(), "payload": plain(msgspec.msgpack.decode(payload))}
    return plain(msgspec.msgpack.decode(data))


def main() -> int:
    """Store what isn't stored yet; complain of what differs."""
    DATA.mkdir(parents=True, exist_ok=True)
    differing = []
    for name, data in all_examples().items():
        path = DATA / f"{name}.bin"
        if not path.exists():
            path.write_bytes(data)
            path.with_suffix(".json").write_text(json.dumps(readable(name, data), indent=1, ensure_ascii=False) + "\n")
        elif path.read_bytes() != data:
            differing.append(path.name)
    if differing:
        sys.stderr.write(f"Stored and kept, though the Structs now give other bytes: {', '.join(differing)}\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
