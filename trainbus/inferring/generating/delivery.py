"""New examples on their way into the inbox: one file, there whole or not at all, and each row says where it came from.

INBOX/generated-JOB.jsonl         the examples; in each row ``lineage`` names job, model, template and the lines of its seeds
INBOX/.generated/JOB.json         the job: who was asked for what, with which settings and seeds, and what came of it
INBOX/.generated/JOB.rejected.jsonl  what was no example, with reasons
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.home import write_atomically
from trainbus.errors import DataError
from trainbus.inferring.asking import Sampling
from trainbus.inferring.generating.job import Outcome
from trainbus.inferring.generating.recipe import Recipe

RECORDS = ".generated"


class Lineage(Struct, frozen=True, kw_only=True):
    """Where generated examples come from; ``INBOX/.generated/JOB.json``.

    Args:
        model: Its name; ``server`` is where it was asked, empty for this machine; ``checkpoint`` the id of a checkpoint, if it is one.
        template: The text that was used; empty where seeds asked for themselves.
        seeds_file: What the lines of seeds are in, and ``seeds_digest`` the digest of its content (BLAKE2b, hex).
    """

    job: str
    created: int
    model: str
    server: str
    recipe: Recipe
    template: str
    template_digest: str
    sampling: Sampling
    seeds_file: str
    seeds_digest: str
    file: str = ""
    format: str = ""
    accepted: int = 0
    prompts: int = 0
    rejected: dict[str, int] = {}
    repeated: dict[str, int] = {}
    stopped: str = ""
    checkpoint: str = ""


def digest(content: bytes) -> str:
    """By which a file or a template is known again."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def deliver(inbox: Path, folder: str, lineage: Lineage, outcome: Outcome) -> Lineage:
    """Put what was accepted into the inbox, or into its ``folder`` for a priority; without any there is a record only.

    Returns:
        The lineage as it was written.

    Raises:
        DataError: The inbox can't be written.
    """
    name = f"generated-{lineage.job}.jsonl"
    target = inbox / folder / name
    told = msgspec.structs.replace(
        lineage,
        file=target.relative_to(inbox).as_posix() if outcome.accepted else "",
        accepted=len(outcome.accepted),
        prompts=outcome.prompts,
        rejected=outcome.faults,
        repeated=outcome.repeated,
        stopped=outcome.stopped,
    )
    source = {"job": lineage.job, "model": lineage.model, "template": lineage.template_digest}
    if lineage.checkpoint:
        source["checkpoint"] = lineage.checkpoint
    rows = [{**new.row, "lineage": {**source, "seeds": list(new.seeds)}} for new in outcome.accepted]
    try:
        records = inbox / RECORDS
        if outcome.rejected:
            _write(records / f"{lineage.job}.rejected.jsonl", [{"fault": one.fault, "row": one.row} for one in outcome.rejected])
        _whole(records / f"{lineage.job}.json", msgspec.json.format(msgspec.json.encode(told), indent=1))
        if rows:
            _write(target, rows)  # last: from now on the trainer may take it
    except OSError as error:
        problem = f"The inbox {inbox} can't be written: {error.strerror}."
        raise DataError(problem, hint="Mend its permissions, or free some space.", file=str(inbox)) from error
    return told


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    _whole(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _whole(path: Path, content: bytes) -> None:
    """By a hidden name, which the trainer passes over, and an atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, mode=0o644)
