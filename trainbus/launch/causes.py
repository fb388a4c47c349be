"""What the last words of a program that died mean, and what to do about it. Patterns of what Python, PyTorch, NCCL and the kernel say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from trainbus.plugins.memory.deaths import REASONS

SMALLER = "Lower the batch size (and raise gradient accumulation), shorten sequences, or use gradient checkpointing, LoRA or QLoRA."
RESUME = "Resume from the last checkpoint with a smaller batch, fewer DataLoader workers, or more memory."


class Cause(Struct, frozen=True):
    """A kind of death: its name, what it is in words, what to do, and how it shows in a line of output."""

    kind: str
    words: str
    advice: str
    pattern: re.Pattern[str]


def _said(verdict: str) -> re.Pattern[str]:
    """The words that the memory plugin knows, too."""
    return next(pattern for name, pattern in REASONS if name == verdict)


def _cause(kind: str, words: str, advice: str, pattern: str) -> Cause:
    return Cause(kind, words, advice, re.compile(pattern))


CAUSES: tuple[Cause, ...] = (
    Cause("gpu_memory", "the GPU's memory was used up", SMALLER, _said("gpu")),
    Cause("worker_killed", "a DataLoader worker was killed, as the kernel does for want of memory", RESUME, _said("worker")),
    _cause(
        "shared_memory",
        "shared memory (/dev/shm) was used up",
        "Give the container more (docker run --shm-size=8g, or --ipc=host), or use fewer DataLoader workers.",
        r"insufficient shared memory|unable to (?:open|allocate|mmap).{0,40}shared memory|No space left on device.{0,40}/dev/shm"
        r"|/torch_\d+_\d+",
    ),
    _cause(
        "disk_full",
        "the disk is full",
        "Free some space, or write checkpoints and caches elsewhere; `trainbus checkpoints plan` shows what could go.",
        r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|PytorchStreamWriter failed writing|database or disk is full",
    ),
    Cause("host_memory", "it asked for memory that it was not given", RESUME, _said("python")),
    _cause(
        "import",
        "a module is missing or broken",
        "Install it into the environment that runs the command, and look whether that environment is the right one.",
        r"^(?:\w+\.)*(?:ModuleNotFoundError|ImportError): |undefined symbol: |error while loading shared libraries|version `GLIBC",
    ),
    _cause(
        "nan",
        "a value became NaN or infinite",
        "Lower the learning rate, clip gradients, look at the batch of that step, and try bf16 in place of fp16.",
        r"(?i)returned nan values|^FloatingPointError"
        r"|\b(?:loss|grad\w*|norm|outputs?|inputs?|tensors?|values?|logits)\b.{0,40}\b(?:is|are|was|were|became|contains?|has)\b.{0,25}\b(?:nan|inf)"
        r"|\b(?:nan|inf)s?\b.{0,40}\b(?:detected|encountered|found)|\b(?:detected|encountered|found)\b.{0,40}\b(?:nan|inf)s?\b",
    ),
    _cause(
        "gpu_assert",
        "a kernel on the GPU failed a check",
        "Often a label or token beyond the table's size: run again with CUDA_LAUNCH_BLOCKING=1, or on the CPU, to see where.",
        r"device-side assert|CUDA error: an illegal memory access|misaligned address",
    ),
    _cause(
        "gpu_driver",
        "the GPU, its driver and PyTorch don't fit together",
        "Compare `nvidia-smi` with torch.version.cuda; a GPU that has fallen off the bus shows as Xid in `dmesg`.",
        r"no kernel image is available|CUDA driver version is insufficient|CUDA driver initialization failed|No CUDA GPUs are available"
        r"|CUDA error: (?:invalid device|unknown error|uncorrectable ECC)|Torch not compiled with CUDA|Found no NVIDIA driver",
    ),
    _cause(
        "port",
        "a port is taken",
        "Another training on this machine uses it: choose another --master-port, or on one machine torchrun --standalone.",
        r"(?i)EADDRINUSE|address already in use",
    ),
    _cause(
        "communication",
        "processes of the training lost each other",
        "Look for the rank that failed or hung first; NCCL_DEBUG=INFO tells more, and a longer timeout helps only where one is slow.",
        r"Watchdog caught collective operation timeout|NCCL error|ncclSystemError|ncclRemoteError|Connection closed by peer \["
        r"|Timed out waiting for clients|DistNetworkError|DistStoreError|Gloo connectFullMesh failed",
    ),
    _cause(
        "hub",
        "a model or data set could not be fetched",
        "Look at the name, your login (`hf auth login`) and the network; HF_HUB_OFFLINE=1 works from the cache alone.",
        r"GatedRepoError|RepositoryNotFoundError|OfflineModeIsEnabled|LocalEntryNotFoundError|couldn't connect to 'https://huggingface"
        r"|is not a local folder and is not a valid model identifier|(?:401|403) Client Error|DatasetNotFoundError",
    ),
    _cause(
        "shape",
        "sizes or types of tensors don't fit",
        "Compare the model with its checkpoint and its data; this comes back on every attempt.",
        r"shapes cannot be multiplied|size mismatch for|The size of tensor .* must match|Expected all tensors to be on the same device"
        r"|mat1 and mat2 must have the same dtype|Error\(s\) in loading state_dict",
    ),
    _cause(
        "open_files",
        "it may open no more files",
        "Raise the limit (ulimit -n 65536), or use fewer DataLoader workers.",
        r"Too many open files|\[Errno 24\]|received 0 items of ancdata",
    ),
    _cause(
        "permission",
        "a file may not be read or written",
        "Look at the owner and the rights of the path that it names.",
        r"^PermissionError: |Read-only file system",
    ),
    _cause("file", "a file is not where it was looked for", "Look at the path, and at the folder that it starts in (--cwd).",
        r"^(?:\w+\.)*FileNotFoundError: |can't open file '"),
    _cause("usage", "the command line or a setting was refused", "See the command's --help.",
        r": error: (?:unrecognized arguments|the following arguments|argument |ambiguous option)|^Usage: |^(?:\w+\.)*ConfigError"),
    _cause("syntax", "the program is no valid Python", "Mend the line that it names.", r"^(?:SyntaxError|IndentationError|TabError): "),
)  # fmt: skip
"""The first that fits holds: what is special stands before what is general."""

EXCEPTION = re.compile(r"^(?:\[rank\d+\]: ?)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning)\w*)(?::\s*(.*))?$")
TRACEBACK = "Traceback (most recent call last)"
RANK = re.compile(r"^\[rank\d+\]: ?")


LAUNCHER = re.compile(r"ChildFailedError|CalledProcessError|ProcessRaisedException|ProcessExitedException")
"""Exceptions that launchers raise because another process has failed, whose last words stand before."""


def cause_of(lines: Sequence[str]) -> tuple[Cause, str] | None:
    """What the last lines speak of, with the line that says so; None when nothing is known of it.

    Where they end in a traceback, that one counts: what was logged before it may speak of anything.
    """
    plain = [RANK.sub("", line) for line in lines]
    begins = [number for number, line in enumerate(plain) if line.startswith(TRACEBACK)]
    if begins and not any(LAUNCHER.search(line) for line in plain[begins[-1] :]):
        plain = plain[begins[-1] :]
    for cause in CAUSES:
        for line in reversed(plain):
            if cause.pattern.search(line):
                return cause, line.strip()
    return None


def exception_of(lines: Sequence[str]) -> str:
    """The last line that is the end of a Python traceback; empty when there is none."""
    return next((RANK.sub("", line).strip() for line in reversed(lines) if EXCEPTION.match(line.strip())), "")
