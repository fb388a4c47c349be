"""The vocabulary: one msgspec Struct for each kind of event.

On the wire an event is a msgpack map whose ``kind`` names its type. Fields that hold their default
are left out. Readers ignore fields that they don't know; an unknown kind decodes to `Other` and is
passed on unharmed. A new field needs a default; removing or retyping one raises `PROTOCOL`
(`trainbus.bus.wire`).

Units: ``time`` is wall clock in nanoseconds since the epoch, durations are seconds, sizes are bytes,
fractions and ``progress`` run from 0 to 1, percentages from 0 to 100.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct, field

RunOutcome: TypeAlias = Literal["completed", "stopped", "failed", "lost"]
PhaseState: TypeAlias = Literal["started", "progress", "ended"]
CheckpointState: TypeAlias = Literal["writing", "complete", "deleted"]
JobState: TypeAlias = Literal["queued", "processing", "completed", "failed", "skipped"]
Severity: TypeAlias = Literal["info", "warning", "critical"]
AlertState: TypeAlias = Literal["raised", "updated", "cleared"]
Verb: TypeAlias = Literal[
    "pause", "resume", "stop", "save", "evaluate", "skip", "set", "free_caches",
    "queue_priority", "queue_move", "queue_remove", "queue_retry", "queue_hold", "queue_release",
]  # fmt: skip
Fate: TypeAlias = Literal["kept", "goes", "thins", "trashed", "gone"]
CommandState: TypeAlias = Literal["accepted", "done", "refused"]
PluginState: TypeAlias = Literal["starting", "running", "stuck", "failed", "stopped"]


class Event(Struct, tag_field="kind", kw_only=True, omit_defaults=True):
    """What every event carries; the publisher fills it in, the broker adds ``offset``."""

    run: str = ""
    source: str = ""
    seq: int = -1
    time: int = 0
    offset: int = -1

    @property
    def kind(self) -> str:
        """The name of the event's kind, as in its topic and in the journal."""
        return str(self.__struct_config__.tag)


class RunStarted(Event, tag="run_started"):
    """A training process began to work on a run (again, when ``resumed_from`` is set)."""

    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    world_size: int = 1
    resumed_from: str | None = None
    resumed_step: int | None = None
    command: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


class RunEnded(Event, tag="run_ended"):
    """A run ended, or (``outcome="lost"``, from the broker) stopped giving signs of life."""

    outcome: RunOutcome = "completed"
    step: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    last_lines: list[str] = field(default_factory=list)


class Phase(Event, tag="phase"):
    """Work of the trainer that has a beginning and an end (load_data, load_model, train, save, ...)."""

    name: str = ""
    state: PhaseState = "started"
    progress: float | None = None
    duration: float | None = None
    detail: str = ""


class Step(Event, tag="step"):
    """One optimizer step. ``metrics["loss"]`` is the raw value of this step: NaN stays NaN."""

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    total_steps: int | None = None
    epoch: float | None = None
    examples: int | None = None
    tokens: int | None = None
    rank: int = 0


class Eval(Event, tag="eval"):
    """Metrics of a whole evaluation set, of the live model or of one checkpoint; ``evidence`` is what stands behind them."""

    step: int = 0
    dataset: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    examples: int | None = None
    duration: float | None = None
    checkpoint: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class Sample(Event, tag="sample"):
    """One question with the model's answer; ``loss``, ``correct`` and ``metrics`` belong to this same example."""

    step: int = 0
    prompt: str = ""
    expected: str | None = None
    answer: str | None = None
    correct: bool | None = None
    loss: float | None = None
    example: str = ""
    dataset: str = ""
    checkpoint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


MARKER = "trainbus_checkpoint.json"
"""File in a complete checkpoint: its id, run, step, and the digest of each of its files."""


class Checkpoint(Event, tag="checkpoint"):
    """A checkpoint directory changed state. ``id`` is run, step and digest together.

    ``complete`` is published only after the directory is whole under its final name.
    """

    id: str = ""
    step: int = 0
    path: str = ""
    host: str = ""
    state: CheckpointState = "complete"
    bytes: int | None = None
    digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""


class Job(Event, tag="job"):
    """A data file of the trainer's queue changed state."""

    id: str = ""
    file: str = ""
    state: JobState = "queued"
    priority: str = "normal"
    attempts: int = 0
    bytes: int | None = None
    examples: int | None = None
    reason: str = ""


class Memory(Struct, kw_only=True, omit_defaults=True):
    """Bytes of one memory: host RAM (``available`` is MemAvailable), swap, or the shared memory under /dev/shm.

    ``in_rate`` and ``out_rate`` are bytes a second read from and written to swap; ``segments`` counts the files of shared memory.
    """

    total: int = 0
    used: int = 0
    available: int | None = None
    in_rate: float | None = None
    out_rate: float | None = None
    segments: int | None = None


class Worker(Struct, kw_only=True, omit_defaults=True):
    """A descendant of a training's process. ``role``: dataloader, rank, or empty. ``pss`` divides shared pages by those that share them."""

    pid: int
    name: str = ""
    role: str = ""
    rss: int = 0
    pss: int | None = None
    anon: int | None = None


class Process(Struct, kw_only=True, omit_defaults=True):
    """One process tree: ``rss`` is the sum of the tree's resident bytes.

    ``anon`` is what only a swap could take from it (anonymous memory, swapped or not), ``pss`` counts a shared page once over the
    tree, ``shared`` is what several processes map, ``files`` the open files of the tree, ``files_percent`` how near any of its
    processes is to its own limit of open files. ``group`` is the path of its memory cgroup. ``workers`` are the biggest descendants.
    """

    pid: int
    name: str = ""
    role: str = ""
    run: str = ""
    rss: int = 0
    processes: int = 1
    cpu_percent: float | None = None
    pss: int | None = None
    anon: int | None = None
    shared: int | None = None
    swap: int | None = None
    files: int | None = None
    files_percent: float | None = None
    group: str = ""
    workers: list[Worker] = field(default_factory=list)


class MemoryGroup(Struct, kw_only=True, omit_defaults=True):
    """A control group with a memory limit of its own: a container, a job, a unit.

    ``used`` is what can't be reclaimed, so that the kernel kills when it reaches ``limit``; ``cache`` is what can. ``oom_kills``
    counts the processes that the kernel has killed in it. ``version`` is 2 or 1; 0 is no group but the limit of one process's address
    space (ulimit -v), at which the process is refused memory.
    """

    path: str
    version: int = 2
    limit: int | None = None
    used: int = 0
    cache: int = 0
    peak: int | None = None
    swap: int | None = None
    oom_kills: int | None = None
    pressure: Pressure | None = None


class Disk(Struct, kw_only=True, omit_defaults=True):
    """The file system that holds ``path``; its inodes are None where the file system makes them as it needs them."""

    path: str
    total: int = 0
    free: int = 0
    inodes: int | None = None
    inodes_free: int | None = None


class GpuProcess(Struct, kw_only=True, omit_defaults=True):
    """What one process holds of a GPU's memory; ``run`` when it belongs to a training."""

    pid: int
    run: str = ""
    memory: int | None = None


class Gpu(Struct, kw_only=True, omit_defaults=True):
    """One accelerator, or one MIG slice of it (``slice`` is its number). ``None`` means that the driver did not say.

    ``throttling`` names why its clock is held down, ``ecc_uncorrected`` and ``ecc_corrected`` count memory errors since the driver
    was loaded, ``xid`` is the last fault that the driver reported in the kernel's log.
    """

    index: int
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    uuid: str = ""
    slice: int | None = None
    throttling: list[str] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xid: int | None = None
    processes: list[GpuProcess] | None = None


class Pressure(Struct, kw_only=True, omit_defaults=True):
    """Linux PSI: percentage of the last 10 s in which some / all tasks waited; then of the last minute and the last five."""

    some: float | None = None
    full: float | None = None
    some60: float | None = None
    full60: float | None = None
    some300: float | None = None
    full300: float | None = None


class System(Event, tag="system"):
    """The state of one machine. ``risk`` is the risk of running out of memory, with its reason.

    ``oom_kills`` counts the kernel's kills for want of memory since the machine started, ``gone`` names the runs whose process
    vanished since the look before, ``kernel`` holds new lines of the kernel's log about kills and GPU faults. ``unknown`` says why
    something is missing. GPUs, disks, groups and shared pages may be a few seconds old.
    """

    host: str = ""
    memory: Memory | None = None
    swap: Memory | None = None
    pressure: Pressure | None = None
    cpu_percent: float | None = None
    processes: list[Process] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    risk: Literal["", "low", "medium", "high"] = ""
    reason: str = ""
    unknown: dict[str, str] = field(default_factory=dict)
    groups: list[MemoryGroup] = field(default_factory=list)
    shm: Memory | None = None
    io_pressure: Pressure | None = None
    cpu_pressure: Pressure | None = None
    cpus: int | None = None
    load: list[float] = field(default_factory=list)
    oom_kills: int | None = None
    gone: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)


class Metric(Event, tag="metric"):
    """A point of any named series that somebody wants charted."""

    name: str = ""
    value: float = math.nan
    step: int | None = None
    unit: str = ""


class Alert(Event, tag="alert"):
    """One incident's life. ``id`` is deterministic: the same events give the same id again."""

    id: str = ""
    rule: str = ""
    category: str = ""
    severity: Severity = "warning"
    state: AlertState = "raised"
    step: int | None = None
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    plugin: str = ""


class CheckpointFate(Struct, kw_only=True, omit_defaults=True):
    """What is to become of one checkpoint, and why.

    ``kept``; ``goes`` and ``thins`` (loses its optimizer state) at the next look, or never while ``dry_run`` holds; ``trashed``: it can
    be restored until ``until`` (ns since the epoch) at the latest; ``gone`` for good. ``protected``: nothing may delete it. ``pinned``
    says by whom and why, ``leases`` who reads it. ``restorable``: `restore` brings it back, or its optimizer state.
    """

    id: str
    step: int = 0
    path: str = ""
    state: Fate = "kept"
    reasons: list[str] = field(default_factory=list)
    time: int = 0
    bytes: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    protected: bool = False
    pinned: str = ""
    leases: list[str] = field(default_factory=list)
    thinned: bool = False
    restorable: bool = False
    until: int = 0


class CheckpointDisk(Struct, kw_only=True, omit_defaults=True):
    """A file system with checkpoints: what they and their trash take of it, the bytes that shall stay free, and the seconds until it is
    full at the present rate. ``directories`` hold the checkpoints that are on it."""

    path: str
    total: int = 0
    free: int = 0
    checkpoints: int = 0
    trash: int = 0
    floor: int = 0
    full_in: float | None = None
    directories: list[str] = field(default_factory=list)


class Retention(Event, tag="retention"):
    """What retention on ``host`` decided about the checkpoints of a run: those of which something changed since the event before.

    ``full`` begins anew: what earlier events said of this run and host holds no more. An event without a run tells of disks.
    """

    host: str = ""
    full: bool = False
    dry_run: bool = False
    checkpoints: list[CheckpointFate] = field(default_factory=list)
    disks: list[CheckpointDisk] = field(default_factory=list)


class Command(Event, tag="command"):
    """Something that a run is asked to do; delivered until a `CommandResult` ends it. With ``plugin``, that plugin is asked to do it."""

    id: str = ""
    verb: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    requested_by: str = ""
    reason: str = ""
    plugin: str = ""


class CommandResult(Event, tag="command_result"):
    """What became of a command."""

    command: str = ""
    verb: str = ""
    state: CommandState = "done"
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)


class Plugin(Event, tag="plugin"):
    """The state of one plugin host."""

    name: str = ""
    state: PluginState = "starting"
    version: str = ""
    host: str = ""
    pid: int | None = None
    restarts: int = 0
    lag: int | None = None
    dead_letters: int = 0
    error: str = ""


class Gap(Event, tag="gap"):
    """Events ``first_seq`` to ``last_seq`` (inclusive) of ``missing_source`` are gone, and why."""

    missing_source: str = ""
    first_seq: int = 0
    last_seq: int = 0
    reason: str = ""


class Heartbeat(Event, tag="heartbeat"):
    """A sign of life; fanned out, never journaled (``offset`` stays -1)."""

    step: int | None = None
    rss: int | None = None
    state: str = ""


class Other(Struct, kw_only=True):
    """An event of a kind that this version does not know, kept as it came."""

    kind: str
    run: str = ""
    source: str = ""
    seq: int = -1
    time: int = 0
    offset: int = -1
    fields: dict[str, Any] = field(default_factory=dict)


KNOWN: tuple[type[Event], ...] = (
    RunStarted, RunEnded, Phase, Step, Eval, Sample, Checkpoint, Job, System, Metric,
    Alert, Command, CommandResult, Plugin, Gap, Heartbeat, Retention,
)  # fmt: skip
BY_KIND: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in KNOWN}
AnyEvent: TypeAlias = Event | Other

# Published at once instead of with the next batch: somebody acts on these, or the process is about to end.
URGENT: frozenset[str] = frozenset({"checkpoint", "alert", "run_ended", "command", "command_result"})

checkpoint_id_format = "{run}@{step}:{digest}"


def checkpoint_id(run: str, step: int, digest: str) -> str:
    """The identity of a checkpoint: run, step and the first 16 characters of its content digest."""
    return checkpoint_id_format.format(run=run, step=step, digest=digest[:16])


class Envelope(Struct):
    """The part of an event that routing needs; everything else in the body is skipped."""

    kind: str
    run: str = ""
    source: str = ""
    seq: int = -1
    time: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RunStarted | RunEnded | Phase | Step | Eval | Sample | Checkpoint | Job | System
    | Metric | Alert | Command | CommandResult | Plugin | Gap | Heartbeat | Retention)  # fmt: skip
_envelope_decoder = msgspec.msgpack.Decoder(Envelope)

encode = _encoder.encode
"""``encode(event) -> bytes``: the event's body as msgpack. ``offset`` is left out while it is -1."""

decode_envelope = _envelope_decoder.decode
"""``decode_envelope(body) -> Envelope``; raises one of `DECODE_ERRORS` on bytes that are no event."""

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)
"""What a decoder of msgspec, json or tomllib raises on bytes that are not what they should be: broken UTF-8 and nests too deep included."""


def decode(body: bytes | memoryview, offset: int = -1) -> AnyEvent:
    """Decode an event's body.

    Returns:
        The event with ``offset`` set; an `Other` when its kind is unknown.

    Raises:
        msgspec.DecodeError: The bytes are no event (``ValidationError`` is a subclass).
    """
    try:
        event = _decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    event.offset = offset
    return event


def _decode(body: bytes | memoryview) -> AnyEvent:
    event: AnyEvent
    try:
        event = _decoder.decode(body)
    except msgspec.ValidationError:
        raw = msgspec.msgpack.decode(body)
        if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str) or raw["kind"] in BY_KIND:
            raise
        event = msgspec.convert(raw, Other)
        event.fields = {key: value for key, value in raw.items() if key not in Envelope.__struct_fields__}
    return event
