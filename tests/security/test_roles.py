"""Every request and message, with every role, against a real broker: what is allowed is written down here once more."""

from __future__ import annotations

import pytest
from msgspec import structs

from trainbus.bus import events, wire
from trainbus.bus.broker.roles import MESSAGES, REQUESTS, owns
from trainbus.bus.client import Client
from trainbus.bus.credentials import ROLES

ANY = "plugin:web"
"""A consumer that is none of the clients' own."""

OBSERVER, PUBLISHER, OPERATOR, ADMIN = ROLES

TABLE = [
    (wire.Status(), OBSERVER),
    (wire.History(), OBSERVER),
    (wire.Runs(), OBSERVER),
    (wire.Consumers(), OBSERVER),
    (wire.DeadLetters(), OBSERVER),
    (wire.Leases(), OBSERVER),
    (wire.Supervise(verb="plugins"), OBSERVER),
    (wire.OpenCursor(consumer="OWN:tail"), OBSERVER),
    (wire.CommitCursor(consumer="OWN:tail", offset=-1), OBSERVER),
    (wire.ResetCursor(consumer="OWN:tail", offset=-1), OBSERVER),
    (wire.AddDeadLetter(consumer="OWN:tail", offset=0, attempts=1, reason=""), OBSERVER),
    (wire.DropCursor(consumer="OWN:tail"), OBSERVER),
    (wire.TakeLease(resource="c", holder="h"), PUBLISHER),
    (wire.RenewLease(id="x"), PUBLISHER),
    (wire.ReleaseLease(id="x"), PUBLISHER),
    (wire.Hello(source="s", run="r"), PUBLISHER),
    (wire.Beat(source="s"), PUBLISHER),
    (wire.Events(source="s", first=0, bodies=[]), PUBLISHER),
    (wire.Skipped(source="s", first=0, last=0), PUBLISHER),
    (wire.Bye(source="s"), PUBLISHER),
    (wire.OpenCursor(consumer=ANY), OPERATOR),
    (wire.CommitCursor(consumer=ANY, offset=-1), OPERATOR),
    (wire.ResetCursor(consumer=ANY, offset=-1), OPERATOR),
    (wire.AddDeadLetter(consumer=ANY, offset=0, attempts=1, reason=""), OPERATOR),
    (wire.DropCursor(consumer=ANY), OPERATOR),
    (wire.SendCommand(run="r", verb="stop"), OPERATOR),
    (wire.DeleteRun(run="r"), ADMIN),
    (wire.TrimJournal(upto=0), ADMIN),
    (wire.Supervise(verb="down"), ADMIN),
    (wire.Supervise(verb="add", name="web"), ADMIN),
    (wire.Supervisor(pid=1), ADMIN),
    (wire.Forwarded(id=1), ADMIN),
]


def name_of(message) -> str:
    consumer = getattr(message, "consumer", "")
    return f"{type(message).__name__} {consumer or getattr(message, 'verb', '')}".strip()


def test_the_table_misses_nothing():
    """A request that is added later must get its row, here and in the code."""
    mentioned = {type(message) for message, _ in TABLE}
    assert set(wire.AnyRequest.__args__) == set(REQUESTS)
    from_brokers = {wire.Welcome, wire.Ack, wire.Rewind, wire.Deliver, wire.Reply, wire.Failure, wire.Forward, wire.Call}
    assert set(wire.AnyMessage.__args__) - from_brokers == set(MESSAGES)
    assert mentioned == set(REQUESTS) | set(MESSAGES)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_table_says_and_nothing_else(role, everybody, peer):
    """Refusals carry the code ``forbidden``, name the role that is needed, and change nothing."""
    client = peer(everybody[role])
    wrong = []
    for message, least in TABLE:
        if hasattr(message, "consumer") and message.consumer.startswith("OWN"):
            message = structs.replace(message, consumer=f"{role}:tail")
        allowed = ROLES.index(role) >= ROLES.index(least)
        answer = said(client, message)
        forbidden = isinstance(answer, wire.Failure) and answer.code == "forbidden"
        if forbidden == allowed:
            wrong.append((name_of(message), answer))
        elif forbidden:
            assert f"needs {least}" in answer.problem
            assert role in answer.problem
    assert not wrong
    assert client.status().sources == [] or role != "observer"  # what was refused was not acted on


def said(client, message):
    """The refusal or the answer of a message; None when it needs none and was taken."""
    request = message if isinstance(message, wire.Request) else None
    if request is None:
        client.socket.send(wire.encode(message))
    # Whatever was said before has been refused when this is answered; acknowledgements may come at any time.
    client.number = getattr(client, "number", 1000) + 1
    client.socket.send(wire.encode(wire.Call(id=client.number, request=request or wire.Status())))
    refused = None
    while getattr(answer := client.hear(), "id", None) != client.number:
        refused = answer if isinstance(answer, wire.Failure) else refused
    return answer if request is not None else refused


def test_a_client_owns_the_consumers_that_bear_its_name():
    """And none whose name only begins alike."""
    assert owns("web", "web")
    assert owns("web", "web:plugin:web")
    assert not owns("web", "website:x")
    assert not owns("web", "plugin:web")


def test_a_command_bears_the_name_of_the_key(bus, everybody, peer):
    """A caller may say what it likes of itself: who it is stands beside it in the journal."""
    publisher = peer(everybody["publisher"])
    welcome = publisher.say(wire.Hello(source="s", run="r", owner=True))
    assert isinstance(welcome, wire.Welcome)
    body = events.encode(events.RunStarted(run="r", source="s", seq=0, time=1, name="r"))
    assert isinstance(publisher.say(wire.Events(source="s", first=0, bodies=[body])), wire.Ack)
    assert isinstance(peer(everybody["operator"]).call(wire.SendCommand(run="r", verb="stop", requested_by="the boss")), wire.Reply)
    with Client(root=bus.root) as client:
        (command,) = client.events(kinds=["command"])
    assert command.requested_by == "the boss (key operator)"
