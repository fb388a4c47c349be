"""The control groups that limit a process's memory: version 2, version 1, and both mixed.

A process can be under several limits (its container's, its pod's, its slice's): the one with the least room is what kills it.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from trainbus.bus.events import MemoryGroup
from trainbus.machine.proc import parse_pressure
from trainbus.machine.text import UnknownError, counters, read_text

UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as the greatest multiple of a page: whatever is beyond an exabyte is none."""


class Place(Struct, frozen=True):
    """Where a process's memory is accounted: the mount point, the directory under it, and the version of the interface."""

    mount: Path
    directory: Path
    version: int


def locate(proc: Path, pid: int | str) -> Place:
    """Where the memory of a process is accounted.

    Raises:
        UnknownError: No memory controller is mounted here, or the process is gone.
    """
    mounts = _mounts(read_text(proc / str(pid) / "mountinfo"))
    paths: dict[str, str] = {}
    for line in read_text(proc / str(pid) / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for controller in controllers.split(",") if controllers else [""]:
            paths[controller] = path
    # Where both versions are mounted, version 1 has the memory controller if it names it.
    for controller, version in (("memory", 1), ("", 2)):
        mounted = mounts.get(controller)
        if mounted is not None and controller in paths:
            mount, root = mounted
            return Place(mount, _below(mount, root, paths[controller]), version)
    raise UnknownError(f"no memory control group is mounted for process {pid}")


def read_group(place: Place) -> MemoryGroup | None:
    """The limit with the least room among those that hold in ``place``; None when there is none.

    Raises:
        UnknownError: The files can't be read (the group is gone, or the memory controller is not enabled).
    """
    tightest: MemoryGroup | None = None
    for directory in (place.directory, *place.directory.parents):
        limited = _limited(place, directory)
        if limited is not None and (tightest is None or _room(limited) < _room(tightest)):
            tightest = limited
        if directory == place.mount:
            break
    if tightest is not None:
        _details(tightest, Path(tightest.path))
    return tightest


def _limited(place: Place, directory: Path) -> MemoryGroup | None:
    """The numbers of one directory; None when it sets no limit."""
    limit_name = "memory.max" if place.version == 2 else "memory.limit_in_bytes"
    try:
        text = read_text(directory / limit_name).strip()
    except UnknownError:
        if directory == place.directory != place.mount and not directory.is_dir():
            raise  # the process's own group must be there; the root has no limit in version 2
        return None
    if not text.isdigit() or int(text) >= UNLIMITED:
        return None
    stat = counters(read_text(directory / "memory.stat"))
    if place.version == 2:
        usage, prefix, slab = _number(directory / "memory.current"), "", stat.get("slab_reclaimable", 0)
    else:
        usage, prefix, slab = _number(directory / "memory.usage_in_bytes"), "total_", 0
    if usage is None:
        raise UnknownError(f"{directory} does not say what is in use")
    cache = min(usage, stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0) + slab)
    return MemoryGroup(path=str(directory), version=place.version, limit=int(text), used=usage - cache, cache=cache)


def _details(group: MemoryGroup, directory: Path) -> None:
    if group.version == 2:
        group.peak, group.swap = _number(directory / "memory.peak"), _number(directory / "memory.swap.current")
        events = "memory.events"
    else:
        group.peak, events = _number(directory / "memory.max_usage_in_bytes"), "memory.oom_control"
        with_swap, usage = _number(directory / "memory.memsw.usage_in_bytes"), _number(directory / "memory.usage_in_bytes")
        group.swap = None if with_swap is None or usage is None else max(0, with_swap - usage)
    try:
        group.oom_kills = counters(read_text(directory / events)).get("oom_kill")
    except UnknownError:
        group.oom_kills = None
    try:
        group.pressure = parse_pressure(directory / "memory.pressure")
    except UnknownError:
        group.pressure = None


def _room(group: MemoryGroup) -> int:
    return (group.limit or UNLIMITED) - group.used


def _number(path: Path) -> int | None:
    try:
        text = read_text(path).strip()
    except UnknownError:
        return None
    return int(text) if text.isdigit() else None


def _mounts(mountinfo: str) -> dict[str, tuple[Path, str]]:
    """Mount point and root of the hierarchy by controller; "" stands for version 2."""
    found: dict[str, tuple[Path, str]] = {}
    for line in mountinfo.splitlines():
        front, _, back = line.partition(" - ")
        before, after = front.split(), back.split()
        if len(before) < 5 or len(after) < 3:
            continue
        mount, root = Path(_unescaped(before[4])), _unescaped(before[3])
        if after[0] == "cgroup2":
            found.setdefault("", (mount, root))
        elif after[0] == "cgroup" and "memory" in after[2].split(","):
            found.setdefault("memory", (mount, root))
    return found


def _below(mount: Path, root: str, path: str) -> Path:
    """The directory of a group: in a container the mount shows a part of the hierarchy, and the path may begin with that part or not."""
    if root not in ("", "/") and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    parts = [part for part in path.split("/") if part not in ("", "..")]
    directory = mount.joinpath(*parts)
    # Without a namespace of its own, a container sees the host's path and only its own group mounted.
    return directory if directory.is_dir() else mount


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
