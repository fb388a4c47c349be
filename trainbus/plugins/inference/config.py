"""What can be set in ``[plugin.inference]``."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from trainbus.bus.events import Checkpoint
from trainbus.errors import ConfigError

TEMPLATE_FIELDS = ("path", "name", "id", "run", "step")


class InferenceConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Settings of the examiner. Durations are seconds.

    Args:
        url: Base address of an OpenAI-compatible server, with its version: ``http://127.0.0.1:8000/v1``.
        questions: File with one question in each line (JSONL).
        model: Model name in requests; ``{path}``, ``{name}`` (last part of the path), ``{id}``, ``{run}``, ``{step}`` are filled in.
        api_key_env: Name of the environment variable that holds the server's key; empty for none.
        dataset: Name of the set in events; the file's name without its ending when empty.
        policy: Which checkpoints are examined when the examiner is behind: all, in order, or the newest of each run.
        scorer: Which comparison decides that an answer is correct.
        limit: Ask only the first so many questions; 0 asks all.
        system: Text of a system message before each question.
        temperature: 0 makes answers repeatable.
        max_tokens: Longest answer that the server may write.
        concurrency: Questions that are asked at the same time.
        timeout: Longest time for one answer from first to last byte.
        max_answer_bytes: Largest HTTP answer that is read.
        attempts: Tries of one checkpoint until it is given up.
        pause: Pause after the first failed try; each further one is twice as long.
        longest_pause: Where the pauses stop growing.
    """

    url: str
    questions: str
    model: str = "{path}"
    api_key_env: str = ""
    dataset: str = ""
    policy: Literal["newest", "every"] = "newest"
    scorer: Literal["exact_match", "normalised_match", "number_match"] = "normalised_match"
    limit: Annotated[int, Meta(ge=0)] = 0
    system: str = ""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 4
    timeout: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    max_answer_bytes: Annotated[int, Meta(ge=1_024)] = 1024 * 1024
    attempts: Annotated[int, Meta(ge=1, le=1_000)] = 6
    pause: Annotated[float, Meta(gt=0, le=3_600)] = 1.0
    longest_pause: Annotated[float, Meta(gt=0, le=3_600)] = 60.0


def check(config: InferenceConfig) -> None:
    """Refuse what is well-typed but can't work.

    Raises:
        ConfigError: The address is none, or the model template names an unknown field.
    """
    address = urlsplit(config.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(
            f"plugin.inference.url is {config.url!r}, which is no http address.",
            hint='Give the base address with its version, such as "http://127.0.0.1:8000/v1".',
            key="plugin.inference.url",
            found=config.url,
        )
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(config.model) if field is not None]
    except ValueError:
        fields = ["{"]
    if unknown := [field for field in fields if field not in TEMPLATE_FIELDS]:
        allowed = ", ".join(f"{{{field}}}" for field in TEMPLATE_FIELDS)
        raise ConfigError(
            f"plugin.inference.model is {config.model!r}: {unknown[0]!r} can't be filled in.",
            hint=f"Use {allowed}, or a fixed name.",
            key="plugin.inference.model",
            found=config.model,
            allowed=allowed,
        )


def api_key(config: InferenceConfig, environment: Mapping[str, str] = os.environ) -> str:
    """The server's key; empty when none is configured.

    Raises:
        ConfigError: The environment variable that should hold it is not set.
    """
    if not config.api_key_env:
        return ""
    if key := environment.get(config.api_key_env, ""):
        return key
    raise ConfigError(
        f"plugin.inference.api_key_env names {config.api_key_env!r}, and that environment variable is not set.",
        hint=f"Set {config.api_key_env} for the process that starts trainbus, or leave api_key_env out.",
        key="plugin.inference.api_key_env",
        found=config.api_key_env,
    )


def model_name(config: InferenceConfig, checkpoint: Checkpoint) -> str:
    """The name under which the server knows a checkpoint."""
    name = checkpoint.path.rstrip("/").rpartition("/")[2]
    return config.model.format(path=checkpoint.path, name=name, id=checkpoint.id, run=checkpoint.run, step=checkpoint.step)
