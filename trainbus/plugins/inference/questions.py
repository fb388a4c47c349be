"""The fixed set of questions: one JSON object in each line.

A line asks by ``messages`` (chat form), ``prompt``, ``question``, ``instruction`` (with an optional ``input``) or ``problem``, and
says what is right by ``expected``, ``answer``, ``response``, ``output`` or ``completion``. In the chat form a last message of the
assistant is what is right. ``id`` names the question; without it its line number does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import DataError

PROMPTS = ("prompt", "question", "instruction", "problem")
ANSWERS = ("expected", "answer", "response", "output", "completion")
ROLES = ("system", "user", "assistant", "tool", "developer")

MAX_LINE_BYTES = 4 * 1024 * 1024


class Question(Struct, frozen=True):
    """One question. ``prompt`` is what people read of it, ``messages`` what is sent."""

    id: str
    prompt: str
    messages: tuple[dict[str, str], ...]
    expected: str | None


def load(path: Path, *, limit: int = 0) -> list[Question]:
    """Read a set; ``limit`` 0 reads all.

    Raises:
        DataError: The file can't be read, holds no question, or has a line that is none; names file and line.
    """
    questions: list[Question] = []
    seen: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if limit and len(questions) >= limit:
                    break
                if not line.strip():
                    continue
                question = parse(line, path, number)
                if (first := seen.setdefault(question.id, number)) != number:
                    raise _wrong(path, number, f"the id {question.id!r} is already that of line {first}")
                questions.append(question)
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror or error}.",
            hint="Set plugin.inference.questions to a JSONL file with one question in each line.",
            file=str(path),
        ) from error
    if not questions:
        raise DataError(f"{path} holds no question.", hint='A line looks like {"question": "2 + 2?", "answer": "4"}.', file=str(path))
    return questions


def parse(line: bytes, path: Path, number: int) -> Question:
    """One line of a set.

    Raises:
        DataError: The line is no question.
    """
    if len(line) > MAX_LINE_BYTES:
        raise _wrong(path, number, f"it is longer than {MAX_LINE_BYTES} bytes")
    try:
        record = msgspec.json.decode(line)
    except DECODE_ERRORS as error:
        raise _wrong(path, number, f"it is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise _wrong(path, number, "it is no JSON object")
    identity = str(record.get("id", number))
    expected = next((_text(record[name]) for name in ANSWERS if record.get(name) is not None), None)
    if "messages" in record:
        messages, said = _chat(record["messages"], path, number)
        prompt = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        return Question(id=identity, prompt=prompt, messages=tuple(messages), expected=expected if expected is not None else said)
    name = next((name for name in PROMPTS if isinstance(record.get(name), str) and record[name].strip()), None)
    if name is None:
        raise _wrong(path, number, f"it has none of {', '.join(('messages', *PROMPTS))}")
    prompt = record[name]
    if name == "instruction" and isinstance(record.get("input"), str) and record["input"]:
        prompt = f"{prompt}\n\n{record['input']}"
    return Question(id=identity, prompt=prompt, messages=({"role": "user", "content": prompt},), expected=expected)


def _chat(value: Any, path: Path, number: int) -> tuple[list[dict[str, str]], str | None]:
    """The messages to send, and what the assistant said last, if it did."""
    messages = []
    for message in value if isinstance(value, list) else []:
        if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise _wrong(path, number, "a message needs a role (system, user, assistant) and a content that is a text")
        messages.append({"role": message["role"], "content": message["content"]})
    said = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
    if not any(message["role"] == "user" for message in messages):
        raise _wrong(path, number, "its messages hold none of a user that could be answered")
    return messages, said


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _wrong(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"{path}, line {number}, is no question: {what}.",
        hint='Mend or remove the line. A line looks like {"question": "2 + 2?", "answer": "4"}.',
        file=str(path),
        line=number,
    )
