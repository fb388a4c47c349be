"""How a command ended, in words: from its exit status, its last lines, the kernel's counters, and the signals that we saw."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field

from trainbus.bus.events import Alert, RunOutcome
from trainbus.launch.causes import RESUME, cause_of, exception_of
from trainbus.launch.signals import ENDING, Ended, Sent
from trainbus.plugins.memory.deaths import WORDS, Death

SIGNALS: dict[int, tuple[str, str, str]] = {
    signal.SIGSEGV: (
        "native_crash",
        "it crashed in native code (a segmentation fault)",
        "Run it with `python -X faulthandler` to see where; extensions built for another version of PyTorch or CUDA do this.",
    ),
    signal.SIGBUS: (
        "shared_memory",
        "it crashed on memory that was not there (a bus error)",
        "Often /dev/shm is too small (docker run --shm-size=8g), or a mapped file was cut on a full disk.",
    ),
    signal.SIGABRT: (
        "native_crash",
        "native code gave up (abort)",
        "The last lines tell which; for NCCL's watchdog look for the rank that hung.",
    ),
    signal.SIGILL: ("native_crash", "this processor lacks an instruction that it used", "Install a build for this processor."),
    signal.SIGFPE: ("native_crash", "native code made an arithmetic error", "Run it with `python -X faulthandler` to see where."),
}
"""What kills by itself, as (kind, words, advice)."""


class Verdict(Struct, frozen=True):
    """What became of a command.

    Args:
        kind: ``completed``, ``stopped``, a kind of `causes.CAUSES`, ``killed``, ``native_crash``, ``exception`` or ``unknown``.
        outcome: Of its run.
        reason: One sentence.
        advice: What to do next; empty when nothing is wrong.
        proof: What it is concluded from.
    """

    kind: str
    outcome: RunOutcome
    reason: str
    advice: str = ""
    proof: list[str] = field(default_factory=list)


def judge(ended: Ended, lines: Sequence[str], death: Death | None, received: Sequence[Sent]) -> Verdict:
    """The end of a command, explained.

    Args:
        ended: Its exit status.
        lines: Its last lines of output.
        death: What the kernel's counters and log say, if they were read.
        received: Signals that were sent to us and went on to it, in order.
    """
    asked = next((sent for sent in received if sent.number in ENDING), None)
    number = ended.signal or _signal_in(ended.exit_code)
    if ended.exit_code == 0:
        return Verdict("completed", "completed", _finished(asked))
    if asked is not None and number != signal.SIGKILL:
        by = f" from {asked.sender}" if asked.sender else ""
        return Verdict("stopped", "stopped", f"stopped by {_name(asked.number)}{by}")
    by_kernel = death is not None and death.verdict in ("kernel", "worker")
    if number == signal.SIGKILL and death is not None and by_kernel:
        return Verdict("host_memory", "failed", f"{WORDS[death.verdict][0].lower()}{WORDS[death.verdict][1:]}", RESUME, death.proof)
    error = exception_of(lines)
    if number == signal.SIGINT or error.startswith("KeyboardInterrupt"):  # on a terminal of its own the key reaches it without us
        return Verdict("stopped", "stopped", "stopped by Ctrl-C (SIGINT)")
    found = cause_of(lines)
    if found is not None:
        cause, line = found
        proof = [line, *(death.proof if death is not None and by_kernel else [])]
        return Verdict(cause.kind, "failed", f"{cause.words}: {line}", cause.advice, proof)
    if number == signal.SIGKILL:
        return _killed(death, asked)
    if number in SIGNALS:
        kind, words, advice = SIGNALS[number]
        return Verdict(kind, "failed", f"{words}: {_name(number)}", advice, [_name(number)])
    if number is not None:
        who = "Somebody else sent it: a scheduler, a container that was stopped, or a person."
        return Verdict("killed", "stopped" if number in ENDING else "failed", f"ended by {_name(number)}", who, [_name(number)])
    if by_kernel and death is not None:
        return Verdict("host_memory", "failed", "one of its processes was killed for want of memory", RESUME, death.proof)
    if error:
        return Verdict("exception", "failed", error, "The traceback stands in the kept output.", [error])
    return Verdict("unknown", "failed", f"exit code {ended.exit_code}", "The kept output may tell why.", [f"exit code {ended.exit_code}"])


def crash_alert(run: str, verdict: Verdict, ended: Ended, lines: Sequence[str], *, step: int | None, log: str) -> Alert:
    """A death as an alert, so that whoever is notified reads what to do."""
    evidence: dict[str, Any] = {
        "kind": verdict.kind,
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "proof": list(verdict.proof),
        "last_lines": list(lines),
        "output": log,
    }
    return Alert(
        run=run,
        id=f"crash:{run}",
        rule="crash",
        category="run",
        severity="critical",
        step=step,
        message=f"The command of run {run} failed: {verdict.reason}.",
        evidence=evidence,
        advice=verdict.advice,
        plugin="exec",
    )


def _finished(asked: Sent | None) -> str:
    return "" if asked is None else f"ended in order after {_name(asked.number)}"


def _killed(death: Death | None, asked: Sent | None) -> Verdict:
    proof = ["it ended by SIGKILL", *(death.proof if death is not None else [])]
    if asked is not None:
        return Verdict("stopped", "stopped", f"killed by SIGKILL after {_name(asked.number)}", "", proof)
    if death is not None and death.verdict == "other":
        reason = "somebody killed it (SIGKILL), and it was not the kernel for want of memory"
        return Verdict("killed", "failed", reason, "A person, a scheduler's limit, or a container that was stopped.", proof)
    reason = "it was killed (SIGKILL); whether by the kernel for want of memory can't be told here"
    return Verdict("killed", "failed", reason, "`dmesg` and the scheduler's log may tell by whom.", proof)


def _signal_in(code: int | None) -> int | None:
    """Launchers and shells report a killed program as 128 and the signal, torchrun's as its own exit code 1 (told by its lines)."""
    return code - 128 if code is not None and 128 < code < 128 + signal.NSIG else None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
