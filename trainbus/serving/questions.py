"""Sets of questions on the server's disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import RefusedError
from trainbus.serving.jobs import EXAMPLES_MAX, Example

FIELDS = (("question", "answer"), ("prompt", "completion"), ("prompt", "answer"), ("instruction", "output"))
"""Names of question and answer in one line; or ``messages``, of which the last is the answer."""


def read_set(path: str, roots: Sequence[Path], limit: int) -> tuple[Example, ...]:
    """The first examples of a JSON Lines file below an allowed folder.

    Raises:
        RefusedError: It is not there, not allowed, or a line is no question with an answer.
    """
    file = Path(path).expanduser()
    file = file.resolve() if file.is_absolute() and "\0" not in path else Path("/")
    if not file.is_file() or not any(file.is_relative_to(root.expanduser().resolve()) for root in roots):
        raise RefusedError(
            f"There is no set {path!r} here, or its folder is not allowed.",
            hint="Send `examples` with the request, or start the server with --allow FOLDER.",
            code="unknown",
            param="dataset",
        )
    found: list[Example] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append(_example(line, file.name, number))
            if len(found) >= min(limit, EXAMPLES_MAX):
                break
    return tuple(found)


def _example(line: bytes, name: str, number: int) -> Example:
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
        if "messages" in row:
            *asked, answer = msgspec.convert(row["messages"], list[dict[str, str]])
            return Example(messages=[{"role": one["role"], "content": one["content"]} for one in asked], answer=answer["content"])
        for question, answer_field in FIELDS:
            if isinstance(row.get(question), str) and isinstance(row.get(answer_field), str):
                more = f"\n\n{row['input']}" if question == "instruction" and row.get("input") else ""
                return Example(prompt=row[question] + more, answer=row[answer_field])
    except (*DECODE_ERRORS, KeyError) as error:
        raise RefusedError(f"{name}, line {number}: {error}", code="invalid", param="dataset") from error
    raise RefusedError(
        f"{name}, line {number} is no question with an answer.",
        hint=f"It has messages, or {', '.join(' and '.join(pair) for pair in FIELDS)}.",
        code="invalid",
        param="dataset",
    )
