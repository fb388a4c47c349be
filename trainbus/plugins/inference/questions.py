"""The fixed set of questions: one JSON object in each line, in any of the formats that training files have.

A line asks by ``messages`` (OpenAI chat), ``conversations`` (ShareGPT), ``prompt``, ``question``, ``instruction`` (with an optional
``input``), ``problem`` or ``text``, and says what is right by ``expected``, ``answer``, ``response``, ``output`` or ``completion``. In a
chat a last message of the assistant is what is right. ``choices`` makes it multiple choice. A ``text`` is not asked, only measured.
``id`` names the question; without it a digest of what is asked does, so that it keeps its name when lines are added or moved.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import DataError

PROMPTS = ("prompt", "question", "instruction", "problem")
ANSWERS = ("expected", "answer", "response", "output", "completion")
ROLES = ("system", "user", "assistant", "tool", "developer")
SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant", "tool": "tool", "observation": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT files."""
CHATS = {"messages": ("role", "content"), "conversations": ("from", "value")}

MAX_LINE_BYTES = 4 * 1024 * 1024
DIGEST_CHARACTERS = 12
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Question(Struct, frozen=True):
    """One question. ``prompt`` is what people read of it, ``messages`` what is sent: nothing for a text that is only measured.

    ``choices`` are the answers of multiple choice, of which ``expected`` is one.
    """

    id: str
    prompt: str
    messages: tuple[dict[str, str], ...]
    expected: str | None
    choices: tuple[str, ...] = ()


def load(path: Path, *, limit: int = 0, columns: Mapping[str, str] | None = None) -> list[Question]:
    """Read a set; ``limit`` 0 reads all. ``columns`` says how the file calls what is called otherwise here.

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
                question = parse(line, path, number, columns or {})
                if not question.id:
                    question = structs.replace(question, id=_unnamed(question, seen))
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


def parse(line: bytes, path: Path, number: int, columns: Mapping[str, str]) -> Question:
    """One line of a set; its id is empty where the line names none.

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
    record |= {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
    prompt, messages, said = _asked(record, path, number)
    told = next((record[name] for name in ANSWERS if record.get(name) is not None), said)
    choices = _choices(record, path, number)
    expected = _chosen(told, choices, path, number) if choices else None if told is None else _text(told)
    identity = "" if record.get("id") is None else str(record["id"])
    return Question(id=identity, prompt=prompt, messages=tuple(messages), expected=expected, choices=choices)


def _asked(record: dict[str, Any], path: Path, number: int) -> tuple[str, list[dict[str, str]], str | None]:
    """What people read, what is sent, and what the line itself says is right."""
    for key, (role, content) in CHATS.items():
        if key in record:
            messages, said = _chat(record[key], role, content, path, number)
            return next(message["content"] for message in reversed(messages) if message["role"] == "user"), messages, said
    name = next((name for name in PROMPTS if isinstance(record.get(name), str) and record[name].strip()), None)
    if name is None:
        if isinstance(record.get("text"), str) and record["text"].strip():
            return "", [], record["text"]
        raise _wrong(path, number, f"it has none of {', '.join((*CHATS, *PROMPTS, 'text'))}")
    prompt = record[name]
    if name == "instruction" and isinstance(record.get("input"), str) and record["input"]:
        prompt = f"{prompt}\n\n{record['input']}"
    return prompt, [{"role": "user", "content": prompt}], None


def _chat(value: Any, role: str, content: str, path: Path, number: int) -> tuple[list[dict[str, str]], str | None]:
    """The messages to send, and what the assistant said last, if it did."""
    messages = []
    for message in value if isinstance(value, list) else []:
        told = message.get(role) if isinstance(message, dict) else None
        speaker = SPEAKERS.get(str(told).lower()) if role == "from" else told if told in ROLES else None
        if speaker is None or not isinstance(message.get(content), str):
            raise _wrong(path, number, f"a message needs a {role} (system, user, assistant) and a {content} that is a text")
        messages.append({"role": speaker, "content": message[content]})
    said = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
    if not any(message["role"] == "user" for message in messages):
        raise _wrong(path, number, "its messages hold none of a user that could be answered")
    return messages, said


def _choices(record: dict[str, Any], path: Path, number: int) -> tuple[str, ...]:
    """The answers to choose from, as a list or as ARC has them: ``{"text": [...], "label": [...]}``."""
    value = record.get("choices")
    if isinstance(value, dict):
        value = value.get("text")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(choice, str) and choice for choice in value):
        raise _wrong(path, number, "its choices are no list of two texts or more")
    if len(set(value)) != len(value):
        raise _wrong(path, number, "one of its choices is there twice")
    return tuple(value)


def _chosen(told: Any, choices: tuple[str, ...], path: Path, number: int) -> str:
    """The right choice: given as its text, as its place from 0, or as its letter."""
    place: Any = told
    if isinstance(told, str):
        if told in choices:
            return told
        letter = told.strip("() .").upper()
        place = int(told) if told.isdecimal() else LETTERS.find(letter) if len(letter) == 1 else -1
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        raise _wrong(
            path, number, f"its answer {told!r} is none of its choices: neither the text of one, nor its place from 0, nor its letter"
        )
    return choices[place]


def _unnamed(question: Question, seen: Mapping[str, int]) -> str:
    """A name from what is asked; the second time that the same is asked it gets a number."""
    asked = question.messages or question.expected
    name = hashlib.sha256(msgspec.json.encode([asked, question.choices])).hexdigest()[:DIGEST_CHARACTERS]
    return next(tried for tried in itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2))) if tried not in seen)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _wrong(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"{path}, line {number}, is no question: {what}.",
        hint='Mend or remove the line. A line looks like {"question": "2 + 2?", "answer": "4"}.',
        file=str(path),
        line=number,
    )
