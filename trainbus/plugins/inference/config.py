"""What can be set in ``[plugin.inference]``."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from trainbus.errors import ConfigError

ANYWHERE = ("0.0.0.0", "::")
"""All addresses of this machine: can be bound, and not be told to anybody."""
TEMPLATE_FIELDS = ("path", "name", "id", "run", "step")

EngineName: TypeAlias = Literal["openai", "vllm", "transformers", "trainbus"]
Policy: TypeAlias = Literal["newest", "every"]


class ExamSet(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One set of questions: what ``[[plugin.inference.sets]]`` holds. The keys mean what they mean in `InferenceConfig`."""

    questions: str
    dataset: str = ""
    scorer: str = "normalised_match"
    pattern: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    limit: Annotated[int, Meta(ge=0)] = 0
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    take_every: Annotated[int, Meta(ge=1)] = 1
    at_steps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The set's name in events."""
        return self.dataset or Path(self.questions).stem


class HarnessConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Tasks of lm-evaluation-harness: ``[plugin.inference.harness]``.

    Args:
        tasks: Their names.
        include: Folder with tasks of one's own.
        limit: Ask only the first so many examples of each; 0 asks all.
        fewshot: Examples before each question; None: as the task says.
        chat: Ask by ``/chat/completions``; otherwise by ``/completions``, which tasks that compare likelihoods need.
        tokenizer: A tokenizer's folder or name, which ``/completions`` needs for likelihoods.
        seconds: Longest time for one task.
        take_every: As for a set.
        at_steps: As for a set.
    """

    tasks: tuple[str, ...] = ()
    include: str = ""
    limit: Annotated[int, Meta(ge=0)] = 0
    fewshot: Annotated[int, Meta(ge=0)] | None = None
    chat: bool = True
    tokenizer: str = ""
    seconds: Annotated[float, Meta(gt=0)] = 3_600.0
    take_every: Annotated[int, Meta(ge=1)] = 1
    at_steps: tuple[int, ...] = ()


class InferenceConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Settings of the examiner. Durations are seconds.

    Args:
        url: Base address of an OpenAI-compatible server, with its version: ``http://127.0.0.1:8000/v1``.
        questions: File with one question in each line (JSONL).
        engine: What kind of server it is, which decides how it is given a checkpoint.
        model: Model name in requests; ``{path}``, ``{name}`` (last part of the path), ``{id}``, ``{run}``, ``{step}`` are filled in.
        upload: Send the checkpoint's files to the server (``trainbus serve`` only); otherwise it must see them.
        fetch: Have the server fetch the checkpoint's files from here (``trainbus serve`` only).
        offer_bind: Where they are offered while the server fetches: ``HOST:PORT``; port 0 takes any that is free.
        offer_url: The address under which the server reaches that; empty: the bound one.
        base: The name under which ``trainbus serve`` knows the base of adapters; empty: as the adapter names it.
        paths: Where the server finds what lies here: prefixes of checkpoint paths, and what stands in their place there.
        api_key_env: Name of the environment variable that holds the server's key; empty for none.
        dataset: Name of the set in events; the file's name without its ending when empty.
        policy: Which checkpoints are examined when the examiner is behind: all, in order, or the newest of each run.
        take_every: Of each run only every so many-th checkpoint, beginning with the first.
        at_steps: Only the first checkpoint at or after each of these steps. A newer checkpoint never takes its place.
        sets: Further sets, each with its own file, scorer and schedule.
        harness: Tasks of lm-evaluation-harness, beside the sets.
        scorer: Which comparison decides that an answer is correct: a name, the name of an entry point, or ``module:function``.
        pattern: What the scorer ``regular_expression`` looks for.
        columns: One's own names of a question's columns: ``{question = "frage", answer = "antwort"}``.
        limit: Ask only the first so many questions; 0 asks all.
        system: Text of a system message before each question.
        temperature: 0 makes answers repeatable.
        max_tokens: Longest answer that the server may write.
        logprobs: Ask for the log-probabilities of each answer: they are its confidence, and give the calibration error.
        entropy: Ask how unsure the model was at each token that it said: of the log-probabilities of tokens that might have come.
        likelihood: How the server is asked how likely an expected answer is; ``none`` doesn't ask.
        likelihood_text: The text before an expected answer when ``likelihood`` is ``completion``.
        concurrency: Questions that are asked at the same time.
        timeout: Longest time for one answer from first to last byte.
        load_timeout: Longest time for the server to load a checkpoint.
        max_answer_bytes: Largest HTTP answer that is read.
        attempts: Tries of one checkpoint until it is given up. Trying to connect to a server that is away is not counted.
        pause: Pause after the first failed try; each further one is twice as long.
        longest_pause: Where the pauses stop growing.
    """

    url: str
    questions: str
    engine: EngineName = "openai"
    model: str = ""
    upload: bool = False
    fetch: bool = False
    offer_bind: str = "127.0.0.1:0"
    offer_url: str = ""
    base: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    api_key_env: str = ""
    dataset: str = ""
    policy: Policy = "newest"
    take_every: Annotated[int, Meta(ge=1)] = 1
    at_steps: tuple[int, ...] = ()
    sets: tuple[ExamSet, ...] = ()
    harness: HarnessConfig | None = None
    scorer: str = "normalised_match"
    pattern: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    limit: Annotated[int, Meta(ge=0)] = 0
    system: str = ""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    logprobs: bool = False
    entropy: bool = False
    likelihood: Literal["none", "completion", "chat"] = "none"
    likelihood_text: str = "{prompt}\n"
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 4
    timeout: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    load_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    max_answer_bytes: Annotated[int, Meta(ge=1_024)] = 1024 * 1024
    attempts: Annotated[int, Meta(ge=1, le=1_000)] = 6
    pause: Annotated[float, Meta(gt=0, le=3_600)] = 1.0
    longest_pause: Annotated[float, Meta(gt=0, le=3_600)] = 60.0

    def all_sets(self) -> list[ExamSet]:
        """The set that stands in the section itself, then the further ones."""
        shared = {name: getattr(self, name) for name in ExamSet.__struct_fields__}
        return [ExamSet(**shared), *self.sets]


def check(config: InferenceConfig) -> None:
    """Refuse what is well-typed but can't work.

    Raises:
        ConfigError: An address is none, checkpoints can't travel as it says, a template names an unknown field, or two sets have one name.
    """
    address = urlsplit(config.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(
            f"plugin.inference.url is {config.url!r}, which is no http address.",
            hint='Give the base address with its version, such as "http://127.0.0.1:8000/v1".',
            key="plugin.inference.url",
            found=config.url,
        )
    _check_travel(config)
    _check_template("model", config.model, TEMPLATE_FIELDS)
    _check_template("likelihood_text", config.likelihood_text, ("prompt", "system"))
    names = [one.name for one in config.all_sets()]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"plugin.inference.sets: two sets are named {repeated!r}; results could not be told apart.",
            hint="Give one of them a `dataset` of its own.",
            key="plugin.inference.sets",
            found=repeated,
        )


def _check_travel(config: InferenceConfig) -> None:
    for key in ("upload", "fetch"):
        if getattr(config, key) and config.engine != "trainbus":
            raise ConfigError(
                f"plugin.inference.{key} is set, and the engine {config.engine!r} takes no checkpoints.",
                hint='Set engine = "trainbus" if the server is `trainbus serve`; others must see the files, see plugin.inference.paths.',
                key=f"plugin.inference.{key}",
                found=True,
            )
    if config.upload and config.fetch:
        raise ConfigError(
            "plugin.inference: both `upload` and `fetch` are set.",
            hint="`upload` sends checkpoints to the server, `fetch` has it get them: choose one.",
            key="plugin.inference.fetch",
            found=True,
        )
    if config.fetch:
        _check_offer(config)


def _check_offer(config: InferenceConfig) -> None:
    try:
        host, _ = address_of(config.offer_bind)
    except ValueError as error:
        raise ConfigError(
            f"plugin.inference.offer_bind is {config.offer_bind!r}, which is no address.",
            hint='Give HOST:PORT of this machine, such as "127.0.0.1:0" (port 0: any that is free).',
            key="plugin.inference.offer_bind",
            found=config.offer_bind,
        ) from error
    address = urlsplit(config.offer_url)
    if config.offer_url and (address.scheme not in ("http", "https") or not address.hostname):
        raise ConfigError(
            f"plugin.inference.offer_url is {config.offer_url!r}, which is no http address.",
            hint='Give the address under which the server reaches this machine, such as "http://trainer.lan:8791".',
            key="plugin.inference.offer_url",
            found=config.offer_url,
        )
    if host in ANYWHERE and not config.offer_url:
        raise ConfigError(
            f"plugin.inference.offer_bind is {config.offer_bind!r}, and no server can be told that address.",
            hint='Set offer_url to the one under which it reaches this machine, such as "http://trainer.lan:8791".',
            key="plugin.inference.offer_url",
            found="",
        )


def address_of(bind: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises:
        ValueError: It has not this form.
    """
    parts = urlsplit(f"//{bind}")
    if not parts.hostname or parts.port is None or parts.netloc != bind:
        raise ValueError(bind)
    return parts.hostname, parts.port


def _check_template(key: str, template: str, allowed_fields: tuple[str, ...]) -> None:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        fields = ["{"]
    if unknown := [name for name in fields if name not in allowed_fields]:
        allowed = ", ".join(f"{{{name}}}" for name in allowed_fields)
        raise ConfigError(
            f"plugin.inference.{key} is {template!r}: {unknown[0]!r} can't be filled in.",
            hint=f"Use {allowed}, or a fixed text.",
            key=f"plugin.inference.{key}",
            found=template,
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
