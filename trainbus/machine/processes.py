"""The process tree of a training, from /proc: cheap numbers at every look, dear ones (shared pages, open files) seldom."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from trainbus.bus.events import MemoryGroup, Process, Worker
from trainbus.machine.cgroups import Place, locate
from trainbus.machine.pacing import Paced
from trainbus.machine.text import UnknownError, read_text, sizes
from trainbus.machine.training import START_TOLERANCE, Training, address_space_of

MAX_WORKERS = 16
"""Descendants named in an event, the biggest."""
MEMBERS_PERIOD = 0.5
"""Seconds between looks for new descendants."""
DEAR_PERIOD = 5.0
"""Seconds between readings of shared pages and open files."""
TICKS = os.sysconf("SC_CLK_TCK")


class Stat(Struct, frozen=True):
    """Fields of /proc/PID/stat: ``started`` and ``ticks`` in clock ticks, the first since the machine started."""

    name: str
    state: str
    parent: int
    ticks: int
    started: int


def parse_stat(text: str) -> Stat:
    """One line of /proc/PID/stat; the name may hold spaces and brackets.

    Raises:
        UnknownError: It is torn.
    """
    front, bracket, back = text.rpartition(")")
    fields = back.split()
    if not bracket or len(fields) < 20:
        raise UnknownError(f"a process's stat can't be understood: {text[:60]!r}")
    try:
        return Stat(front.partition("(")[2], fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))
    except ValueError:
        raise UnknownError(f"a process's stat can't be understood: {text[:60]!r}") from None


class _Dear(Struct):
    """What is read seldom. ``pss`` by process."""

    pss: dict[int, int]
    shared: int | None
    files: int | None
    files_percent: float | None
    place: Place | None
    address_space: int | None


class Tree:
    """A training's process and all its descendants. Keeps what is dear between looks.

    Args:
        training: Whose process it is.
        proc: Where the kernel's files are.
        now: Monotonic seconds.
    """

    def __init__(self, training: Training, proc: Path, now: Callable[[], float]) -> None:
        self._training = training
        self._proc = proc
        self._now = now
        self._members: Paced[dict[int, Stat]] = Paced(self._find_members, MEMBERS_PERIOD, now)
        self._dear: Paced[_Dear] = Paced(self._read_dear, DEAR_PERIOD, now)
        self._commands: dict[tuple[int, int], str] = {}
        self._cpu: tuple[float, int] | None = None
        self._pids: list[int] = [training.pid]
        self._address_space: MemoryGroup | None = None

    @property
    def place(self) -> Place | None:
        """Where its memory is accounted, after a look; None when that is not known."""
        try:
            return self._dear.get().place
        except UnknownError:
            return None

    @property
    def address_space(self) -> MemoryGroup | None:
        """The limit of its process's address space (ulimit -v), after a look; None when there is none."""
        return self._address_space

    @property
    def pids(self) -> list[int]:
        """Its processes at the last look."""
        return self._pids

    def read(self) -> Process | None:
        """The tree now; None when its process is gone (also when its number belongs to another one by now).

        Raises:
            UnknownError: The process is there and may not be looked at.
        """
        root = self._stat(self._training.pid)
        if root is None or root.state in "ZX" or self._started(root) > self._training.time / 1e9 + START_TOLERANCE:
            return None
        process = Process(
            pid=self._training.pid, name=self._training.name or root.name, role="trainer", run=self._training.run, processes=0
        )
        workers, ticks = [], 0
        for pid, known in self._members.get().items():
            member = self._member(pid, known)
            if member is None:
                continue
            fields, worker = member
            process.processes += 1
            process.rss += worker.rss
            process.anon = _plus(process.anon, worker.anon)
            process.swap = _plus(process.swap, fields.get("VmSwap"))
            ticks += fields["ticks"]
            if pid != self._training.pid:
                workers.append(worker)
            else:
                self._address_space = self._limited(fields.get("VmSize", 0))
        if process.processes == 0:
            return None
        self._pids = [self._training.pid, *(worker.pid for worker in workers)]
        self._fill_dear(process, workers)
        process.workers = sorted(workers, key=lambda worker: -worker.rss)[:MAX_WORKERS]
        process.cpu_percent = self._cpu_percent(ticks)
        return process

    def _member(self, pid: int, known: Stat) -> tuple[dict[str, int], Worker] | None:
        """Cheap numbers of one process; None when it has ended, or another one has its number."""
        stat = self._stat(pid)
        if stat is None or stat.started != known.started or stat.state in "ZX":
            return None
        try:
            fields = sizes(read_text(self._proc / str(pid) / "status"))
        except UnknownError:
            return None
        if "VmRSS" not in fields:  # it has just given its memory back
            return None
        fields["ticks"] = stat.ticks
        # Since 4.5; before that, file pages can't be told apart here.
        anon = fields["RssAnon"] + fields.get("RssShmem", 0) + fields.get("VmSwap", 0) if "RssAnon" in fields else None
        role = self._role(pid, stat) if pid != self._training.pid else "trainer"
        return fields, Worker(pid=pid, name=stat.name, role=role, rss=fields["VmRSS"], anon=anon)

    def _limited(self, size: int) -> MemoryGroup | None:
        try:
            limit = self._dear.get().address_space
        except UnknownError:
            return None
        return None if limit is None else MemoryGroup(path=address_space_of(self._training.pid), version=0, limit=limit, used=size)

    def _fill_dear(self, process: Process, workers: list[Worker]) -> None:
        try:
            dear = self._dear.get()
        except UnknownError:
            return
        process.shared, process.files, process.files_percent = dear.shared, dear.files, dear.files_percent
        process.group = str(dear.place.directory) if dear.place is not None else ""
        if dear.pss:
            process.pss = sum(dear.pss.values())
        for worker in workers:
            worker.pss = dear.pss.get(worker.pid)

    def _read_dear(self) -> _Dear:
        dear = _Dear({}, None, None, None, None, None)
        for pid in self._members.get():
            folder = self._proc / str(pid)
            try:
                rollup = sizes(read_text(folder / "smaps_rollup"))
                dear.pss[pid] = rollup["Pss"]
                dear.shared = _plus(dear.shared, rollup.get("Shared_Clean", 0) + rollup.get("Shared_Dirty", 0))
            except (UnknownError, KeyError):  # before 4.14, or no permission
                pass
            count = _open_files(folder)
            if count is not None:
                dear.files = _plus(dear.files, count)
                limit = _limit(folder, "Max open files")
                if limit:
                    dear.files_percent = max(dear.files_percent or 0.0, 100.0 * count / limit)
        dear.address_space = _limit(self._proc / str(self._training.pid), "Max address space")
        try:
            dear.place = locate(self._proc, self._training.pid)
        except UnknownError:
            dear.place = None
        return dear

    def _find_members(self) -> dict[int, Stat]:
        """The training's process and what descends from it, by one pass over all processes."""
        stats: dict[int, Stat] = {}
        children: dict[int, list[int]] = {}
        try:
            names = os.listdir(self._proc)  # noqa: PTH208 - names are all that is needed, thousands of them
        except OSError as error:
            raise UnknownError(f"{self._proc} can't be read: {error.strerror or error}") from error
        for name in names:
            if name.isdigit() and (stat := self._stat(int(name))) is not None:
                stats[int(name)] = stat
                children.setdefault(stat.parent, []).append(int(name))
        members, waiting = {}, [self._training.pid]
        while waiting:
            pid = waiting.pop()
            if pid in stats and pid not in members:
                members[pid] = stats[pid]
                waiting += children.get(pid, [])
        return members

    def _stat(self, pid: int) -> Stat | None:
        try:
            return parse_stat(read_text(self._proc / str(pid) / "stat"))
        except UnknownError:
            return None

    def _started(self, stat: Stat) -> float:
        """Seconds since the epoch."""
        for line in read_text(self._proc / "stat").splitlines():
            if line.startswith("btime "):
                return int(line.split()[1]) + stat.started / TICKS
        raise UnknownError(f"{self._proc / 'stat'} has no btime")

    def _role(self, pid: int, stat: Stat) -> str:
        """What a descendant is: torch names its DataLoader workers; older ones are forks that kept the trainer's command line."""
        if stat.name.startswith("pt_data"):
            return "dataloader"
        key = (pid, stat.started)
        if key not in self._commands:
            self._commands[key] = self._command(pid)
        command = self._commands[key]
        if "resource_tracker" in command or "forkserver" in command:
            return "helper"
        if "multiprocessing.spawn" in command or "multiprocessing-fork" in command:
            return "dataloader"
        return "dataloader" if command and command == self._command(self._training.pid) else ""

    def _command(self, pid: int) -> str:
        try:
            return read_text(self._proc / str(pid) / "cmdline").replace("\0", " ").strip()
        except UnknownError:
            return ""

    def _cpu_percent(self, ticks: int) -> float | None:
        """Percent of one CPU since the last look; a worker that ended takes its ticks along, so less than nothing is not known."""
        now, last = self._now(), self._cpu
        self._cpu = (now, ticks)
        if last is None or now <= last[0] or ticks < last[1]:
            return None
        return 100.0 * (ticks - last[1]) / TICKS / (now - last[0])


def _plus(total: int | None, value: int | None) -> int | None:
    return total if value is None else (total or 0) + value


def _open_files(folder: Path) -> int | None:
    try:
        return len(os.listdir(folder / "fd"))  # noqa: PTH208 - only their number is wanted
    except OSError:
        return None


def _limit(folder: Path, name: str) -> int | None:
    """A soft limit; None where there is none."""
    try:
        lines = read_text(folder / "limits").splitlines()
    except UnknownError:
        return None
    for line in lines:
        if line.startswith(name):
            value = line.removeprefix(name).split()[0]
            return int(value) if value.isdigit() else None
    return None
