"""What ``trainbus doctor`` looks at: one function for each thing, each answering ok, warn or fail and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from trainbus.bus.config_file import load
from trainbus.bus.home import connection_file, home, read_connection
from trainbus.errors import TrainbusError, UnreachableError

DISK_FAIL_BYTES = 1024**3
"""Below this, spools (8 MiB for each run) and journal soon don't fit."""
DISK_WARN_BYTES = 10 * 1024**3
"""Below this, a few checkpoints fill the disk."""
CONNECT_TIMEOUT = 2.0
"""Seconds; the broker is on this machine or one hop away."""

EXTRAS = {
    "trainer": ("torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"),
    "retention": ("xxhash", "fsspec"),
    "memory": ("psutil", "nvidia-ml-py"),
    "web": ("aiohttp", "tsdownsample"),
    "parquet": ("pyarrow",),
    "notify": ("apprise",),
    "sinks": ("mlflow-skinny", "wandb", "trackio", "prometheus-client", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
}
"""The packages that an extra brings along."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one check."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def python_version() -> Finding:
    """The interpreter and the libraries that carry the bus."""
    found = (
        f"{sys.version.split()[0]} ({sys.executable}), pyzmq {zmq.__version__} on libzmq {zmq.zmq_version()}, msgspec {msgspec.__version__}"
    )
    return Finding(check="python", state="ok", found=found)


def home_directory() -> Finding:
    """The state directory can be written, and only by its owner."""
    path = home()
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        return Finding(check="home", state="fail", found=f"{nearest} is no directory", mend="Set TRAINBUS_HOME to a directory.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(check="home", state="fail", found=f"{nearest} can't be written", mend="Change its owner, or set TRAINBUS_HOME.")
    if nearest != path:
        return Finding(check="home", state="ok", found=f"{path} (made when it is first needed)")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding(check="home", state="warn", found=f"{path} can be read by others ({mode:o})", mend=f"chmod 700 {path}")
    return Finding(check="home", state="ok", found=str(path))


def configuration() -> Finding:
    """The configuration that holds here is allowed."""
    try:
        loaded = load()
    except TrainbusError as error:
        return Finding(check="configuration", state="fail", found=error.problem, mend=error.hint)
    return Finding(check="configuration", state="ok", found=str(loaded.file or "defaults (no trainbus.toml here)"))


def broker() -> Finding:
    """A broker is known and takes connections."""
    if not connection_file().exists():
        return Finding(
            check="broker", state="warn", found="none runs", mend="`trainbus up` starts one. Until then runs write to their spools."
        )
    try:
        connection = read_connection()
    except UnreachableError as error:
        return Finding(check="broker", state="fail", found=error.problem, mend=error.hint)
    address, _, port = connection.router.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((address.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, ValueError) as error:
        found = f"{connection.router} (process {connection.pid}) does not answer: {error}"
        return Finding(check="broker", state="fail", found=found, mend="It has died: `trainbus up` starts it again; nothing is lost.")
    return Finding(check="broker", state="ok", found=f"{connection.router}, process {connection.pid}")


def disk() -> Finding:
    """Room on the file system of the state directory."""
    path = home()
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{free / 1024**3:.1f} GiB free under {nearest}"
    mend = "Free some, or set TRAINBUS_HOME to another disk; `trainbus runs delete` removes old runs."
    if free < DISK_WARN_BYTES:
        return Finding(check="disk", state="fail" if free < DISK_FAIL_BYTES else "warn", found=found, mend=mend)
    return Finding(check="disk", state="ok", found=found)


def extras() -> list[Finding]:
    """Each extra: its packages and their versions. A missing one is no fault: a machine that only watches needs few."""
    return [_extra(name, packages) for name, packages in EXTRAS.items()]


def _extra(name: str, packages: tuple[str, ...]) -> Finding:
    versions: dict[str, str] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found = ", ".join(f"{package} {version}" for package, version in versions.items())
    missing = [package for package in packages if package not in versions]
    if not missing:
        return Finding(check=f"extra {name}", state="ok", found=found)
    lacking = f"{found + '; ' if found else ''}not installed: {', '.join(missing)}"
    return Finding(check=f"extra {name}", state="warn", found=lacking, mend=f"If you need it: pip install 'trainbus[{name}]'")


def gpu() -> Finding:
    """GPUs that the driver shows; none is no fault."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return Finding(check="gpu", state="ok", found="not looked at: nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Finding(check="gpu", state="ok", found=f"none visible ({error})")
    return Finding(check="gpu", state="ok", found=f"{', '.join(names)} (driver {driver})")


def orphans(list_spools: Callable[[Path], list[tuple[str, int]]]) -> Finding:
    """Spools whose owner is dead. ``list_spools(home)`` gives run and bytes of each."""
    found = list_spools(home())
    if not found:
        return Finding(check="spools", state="ok", found="nothing was left behind")
    total = sum(size for _, size in found)
    runs = ", ".join(sorted({run for run, _ in found}))
    said = f"{len(found)} left behind ({total / 1024**2:.1f} MiB) by {runs}"
    return Finding(check="spools", state="warn", found=said, mend="`trainbus spool drain` sends them; the next `trainbus up` does too.")
