"""What travels between processes: messages, requests, fan-out frames. Described in docs/protocol.md.

Two sockets of the broker:

- ROUTER: each message is one msgpack frame, a map whose ``type`` names it. Peers are DEALERs.
- XPUB: each message is one frame ``topic NUL payload``. An event's topic is ``kind.run``.

A publisher says `Hello`, is told by `Welcome` what the journal already holds of its source, and sends
`Events`: bodies with consecutive seqs. `Ack` is cumulative and means committed. Seqs that the publisher had
to drop are declared by `Skipped`, in order with the batches; the broker journals a gap event in their place. A batch
that does not begin at the seq that the broker expects is not taken: `Rewind` says which seq it expects.

Everything else is a `Call` with one of the requests below, answered by `Reply` or `Failure` with the same id.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct, field

PROTOCOL = 1
"""Version of the wire. Both sides must speak the same one; `Welcome` and `Failure` say which."""

FIRST_PROTOCOL = 1
"""What a message speaks that does not say. For ever: defaults are left out on the wire, so whoever speaks a later version names it."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Largest frame that the broker takes (ZMQ_MAXMSGSIZE): a batch is at most 1 MiB, the rest is room for one huge sample."""

MAX_BATCH_EVENTS = 2_000
MAX_BATCH_BYTES = 1024 * 1024

COMMIT_TOPIC = b"~commit"
"""Topic of the marker that ends each commit's fan-out and, while nothing happens, repeats the head."""


class Message(Struct, tag_field="type", tag=str.lower, kw_only=True, omit_defaults=True):
    """Root of what passes over the ROUTER socket."""


# --- publisher to broker -------------------------------------------------------------------------


class Hello(Message, kw_only=True):
    """First message of every connection of a publisher, and again after each reconnection.

    ``owner``: this source is the training process of ``run``: its silence means a lost run, and commands for the run go to it.
    ``draining``: an orphaned spool is sent by somebody else than its (dead) owner: no liveness, no commands.
    """

    protocol: int = FIRST_PROTOCOL
    source: str
    run: str
    name: str = ""
    host: str = ""
    pid: int = 0
    owner: bool = False
    draining: bool = False


class Events(Message, kw_only=True):
    """Bodies with seqs ``first``, ``first + 1``, ... of one source."""

    source: str
    first: int
    bodies: list[bytes]


class Skipped(Message, kw_only=True):
    """The source dropped seqs ``first`` to ``last`` (inclusive) before they could be sent."""

    source: str
    first: int
    last: int
    reason: str = ""


class Beat(Message, kw_only=True):
    """A publisher's sign of life, each `heartbeat_interval`; also keeps the connection's identity known."""

    source: str
    step: int | None = None
    rss: int | None = None
    state: str = ""


class Bye(Message, kw_only=True):
    """The source ends in order: nothing more comes, and its silence is no loss."""

    source: str


# --- broker to publisher -------------------------------------------------------------------------


class Welcome(Message, kw_only=True):
    """Answer to `Hello`. ``expected`` is the next seq of this source; all before it are committed."""

    protocol: int = FIRST_PROTOCOL
    journal: str
    source: str
    expected: int


class Ack(Message, kw_only=True):
    """All seqs of ``source`` below ``expected`` are committed."""

    source: str
    expected: int


class Rewind(Message, kw_only=True):
    """The last batch was not taken; send again from ``expected`` (or declare `Skipped`)."""

    source: str
    expected: int


class Deliver(Message, kw_only=True):
    """A command for the run that this source owns (body of a `Command` event); repeated until a result is journaled."""

    offset: int
    body: bytes


# --- requests ------------------------------------------------------------------------------------


class Request(Struct, tag_field="op", tag=str.lower, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """Root of all requests. The comment above each says what the reply's ``result`` is."""


class Status(Request, kw_only=True):
    """Result: `BrokerStatus`."""


class History(Request, kw_only=True):
    """Events in offset order with ``after < offset <= upto``. Result: `Page`.

    Empty ``kinds`` or ``runs`` means all. A page ends at ``limit`` events or `MAX_BATCH_BYTES`, whichever comes first.
    """

    after: int = -1
    upto: int | None = None
    kinds: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    limit: int = 5_000


class Runs(Request, kw_only=True):
    """Result: list of `RunInfo`, newest first."""


class DeleteRun(Request, kw_only=True):
    """Deletes a run's events; refused while it is running unless ``force``. Result: ``{"events": n}``."""

    run: str
    force: bool = False


class TrimJournal(Request, kw_only=True):
    """Deletes the events at offsets ``first`` to ``upto``; with ``run``, those of that run alone. Result: ``{"events": n}``.

    Answered when all are gone and their room is given back. Summaries of runs stay. For each consumer that had not read them, a
    ``gap`` event is journaled in the transaction that begins. Refused (code ``invalid``) beyond the head, (code ``unknown``) for a run
    that the journal doesn't know.
    """

    upto: int
    first: int = 0
    run: str = ""


class OpenCursor(Request, kw_only=True):
    """Opens (creating it when new) a durable consumer. Result: `Cursor`.

    ``start`` counts only when it is new: ``beginning``, ``now`` or an offset (``after``).
    """

    consumer: str
    start: Literal["beginning", "now"] | int = "beginning"


class CommitCursor(Request, kw_only=True):
    """Moves the cursor and writes the consumer's state in one transaction. Never moves backwards. Result: ``null``.

    A state value of None deletes the key.
    """

    consumer: str
    offset: int
    state: dict[str, bytes | None] = field(default_factory=dict)


class ResetCursor(Request, kw_only=True):
    """Sets the cursor anywhere, for replays by hand. Result: `Cursor`."""

    consumer: str
    offset: int


class DropCursor(Request, kw_only=True):
    """Forgets a consumer: its cursor, state and dead letters. Result: ``null``."""

    consumer: str


class Consumers(Request, kw_only=True):
    """Result: list of `Cursor` (without state)."""


class AddDeadLetter(Request, kw_only=True):
    """Puts an event aside for a consumer that died on it ``attempts`` times. Result: ``null``."""

    consumer: str
    offset: int
    attempts: int
    reason: str


class DeadLetters(Request, kw_only=True):
    """Result: list of `DeadLetter`."""

    consumer: str = ""


class TakeLease(Request, kw_only=True):
    """A promise that ``resource`` (a checkpoint id) is read (``shared``) or will be deleted (``exclusive``).

    Any number of shared leases, or one exclusive. Refused (code ``conflict``) otherwise. Result: `Lease`.
    """

    resource: str
    holder: str
    mode: Literal["shared", "exclusive"] = "shared"
    ttl: float = 60.0
    reason: str = ""


class RenewLease(Request, kw_only=True):
    """Result: `Lease`; refused (code ``unknown``) when it has expired."""

    id: str
    ttl: float = 60.0


class ReleaseLease(Request, kw_only=True):
    """Result: ``null``; releasing an expired lease is no error."""

    id: str


class Leases(Request, kw_only=True):
    """Result: list of `Lease`."""


class SendCommand(Request, kw_only=True):
    """Journals a `Command` for a run and delivers it to the run's owner. Result: ``{"id": command id}``.

    With ``plugin`` it is for that plugin, which reads it as an event, also when the run has ended. Refused (code ``unknown``) for a run
    that the journal doesn't know, (code ``ended``) for one that has ended.
    """

    run: str
    verb: str
    arguments: dict[str, Any] = field(default_factory=dict)
    requested_by: str = ""
    reason: str = ""
    plugin: str = ""


class Supervisor(Request, kw_only=True):
    """Registers the caller as this broker's supervisor: `Supervise` calls are forwarded to it. Result: ``null``."""

    pid: int


class Supervise(Request, kw_only=True):
    """Asks the supervisor. Refused (code ``no_supervisor``) when there is none. Result: what the supervisor answers.

    Verbs: ``plugins`` (result: list of `PluginStatus`), ``installed`` (list of maps with ``name``, ``distribution``, ``version``),
    ``log`` (with ``name`` and at most ``lines``; the last lines of its output), ``add``, ``remove``, ``restart`` (with ``name``),
    ``reload``, ``down``.
    """

    verb: str
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


AnyRequest: TypeAlias = (
    Status | History | Runs | DeleteRun | TrimJournal | OpenCursor | CommitCursor | ResetCursor | DropCursor | Consumers
    | AddDeadLetter | DeadLetters | TakeLease | RenewLease | ReleaseLease | Leases | SendCommand | Supervisor | Supervise
)  # fmt: skip


class Call(Message, kw_only=True):
    """A request; ``id`` is the caller's and comes back with the answer."""

    id: int
    request: AnyRequest
    protocol: int = FIRST_PROTOCOL


class Reply(Message, kw_only=True):
    """The answer to a `Call`; ``result`` is msgpack of what the request's docstring says."""

    id: int
    result: Raw = field(default_factory=lambda: Raw(b"\xc0"))


class Failure(Message, kw_only=True):
    """A refused `Call`. ``code`` is for programs, ``problem`` and ``hint`` for people. ``id`` is -1 when no id could be read."""

    id: int = -1
    code: str = "error"
    problem: str = ""
    hint: str = ""


class Forward(Message, kw_only=True):
    """Broker to supervisor: a `Supervise` call; the supervisor answers `Forwarded` with the same id."""

    id: int
    request: Supervise


class Forwarded(Message, kw_only=True):
    """Supervisor to broker: the answer to `Forward`."""

    id: int
    ok: bool = True
    result: Raw = field(default_factory=lambda: Raw(b"\xc0"))
    problem: str = ""
    hint: str = ""


# --- results -------------------------------------------------------------------------------------


class Page(Struct, kw_only=True):
    """A part of the history. ``next`` is the ``after`` of the next page; ``done``: nothing is left up to ``upto`` or the head."""

    events: list[tuple[int, bytes]]
    next: int
    head: int
    done: bool


class RunInfo(Struct, kw_only=True):
    """What the journal knows of a run. ``state``: running, completed, stopped, failed, lost."""

    run: str
    name: str = ""
    state: str = "running"
    started: int = 0
    updated: int = 0
    last_step: int | None = None
    total_steps: int | None = None
    host: str = ""
    events: int = 0
    reason: str = ""


class Cursor(Struct, kw_only=True):
    """A durable consumer: ``offset`` is the last one that it has finished (-1: none)."""

    consumer: str
    offset: int
    journal: str
    head: int
    dead_letters: int = 0
    updated: int = 0
    state: dict[str, bytes] = field(default_factory=dict)


class DeadLetter(Struct, kw_only=True):
    """An event that a consumer died on."""

    consumer: str
    offset: int
    attempts: int
    reason: str
    time: int


class Lease(Struct, kw_only=True):
    """A granted lease; ``expires_in`` is in seconds from the answer."""

    id: str
    resource: str
    holder: str
    mode: str
    reason: str = ""
    expires_in: float = 0.0


class SourceStatus(Struct, kw_only=True):
    """A publisher that the broker has heard of since it started."""

    source: str
    run: str
    host: str
    pid: int
    owner: bool
    expected: int
    state: str
    silent_for: float
    last_step: int | None = None
    rss: int | None = None


class KeysStatus(Struct, kw_only=True):
    """Keys, as the broker sees them: ``clients`` that may come in, the ``revision`` of its book, handshakes ``refused`` since the start,
    and the ``problem`` while nobody can be let in.
    """

    clients: int
    revision: int
    refused: int = 0
    problem: str = ""


class BrokerStatus(Struct, kw_only=True, omit_defaults=True):
    """The broker's own figures. ``keys`` is nil where everybody on the machine is let in."""

    pid: int
    host: str
    version: str
    journal: str
    journal_path: str
    router: str
    xpub: str
    head: int
    events: int
    journal_bytes: int
    uptime: float
    commit_failures: int
    last_error: str
    supervisor: int | None
    sources: list[SourceStatus]
    consumers: list[Cursor]
    leases: int
    keys: KeysStatus | None = None


class PluginStatus(Struct, kw_only=True):
    """What the supervisor knows of one plugin."""

    name: str
    state: str
    pid: int | None = None
    version: str = ""
    lag: int | None = None
    restarts: int = 0
    dead_letters: int = 0
    uptime: float | None = None
    error: str = ""
    url: str = ""


# --- fan-out -------------------------------------------------------------------------------------


class Fanout(Struct, array_like=True):
    """Events of one topic and one commit. ``previous`` is the topic's last offset before these (-1: none in this journal)."""

    previous: int
    events: list[tuple[int, bytes]]


class Commit(Struct, array_like=True):
    """Ends a commit's fan-out: offsets ``previous + 1`` to ``head`` were committed, under these topics.

    A subscriber that has everything up to ``previous`` and got a `Fanout` for each listed topic it subscribes to has everything
    up to ``head``; otherwise it asks for `History`. Repeated with ``previous == head`` and no topics each `heartbeat_interval`.
    """

    journal: str
    previous: int
    head: int
    topics: list[str]


AnyMessage: TypeAlias = (
    Hello | Events | Skipped | Beat | Bye | Welcome | Ack | Rewind | Deliver | Call | Reply | Failure | Forward | Forwarded
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(AnyMessage)

encode = _encoder.encode


def decode_message(frame: bytes) -> AnyMessage:
    """Decode one frame of the ROUTER or of a DEALER.

    Raises:
        msgspec.DecodeError: The bytes are no message (``ValidationError`` is a subclass), whatever is wrong with them.
    """
    try:
        message: AnyMessage = _message_decoder.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return message


def topic(kind: str, run: str) -> str:
    """The topic of an event: ``kind.run``."""
    return f"{kind}.{run}"


def pack_frame(topic: bytes, payload: Fanout | Commit) -> bytes:
    """One XPUB frame."""
    return topic + b"\0" + _encoder.encode(payload)


def split_frame(frame: bytes) -> tuple[bytes, bytes]:
    """Topic and payload of one XPUB frame."""
    name, _, payload = frame.partition(b"\0")
    return name, payload
