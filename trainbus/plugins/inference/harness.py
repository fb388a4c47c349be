"""lm-evaluation-harness: its tasks, through its own API, in a process of its own that can be ended at any time.

https://github.com/EleutherAI/lm-evaluation-harness; it is imported only there, and only when a configuration names tasks.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from importlib.util import find_spec

import msgspec
from msgspec import Struct

from trainbus.bus.events import DECODE_ERRORS
from trainbus.errors import PluginError
from trainbus.plugins.inference.config import HarnessConfig, InferenceConfig
from trainbus.plugins.inference.faults import AskError, Fault
from trainbus.plugins.inference.http import short

MODULE = "trainbus.plugins.inference.harness_run"
OUTPUT_BYTES = 16 * 1024 * 1024
"""More than any table of results."""


class Order(Struct, kw_only=True):
    """What the process is told."""

    url: str
    model: str
    harness: HarnessConfig
    concurrency: int
    timeout: float
    system: str = ""


class TaskResult(Struct, kw_only=True):
    """What a task gave: ``metrics`` by lm-evaluation-harness' names, such as ``exact_match,strict-match``."""

    metrics: dict[str, float]
    examples: int | None = None
    version: str = ""


def check_harness(config: HarnessConfig | None) -> None:
    """Refuse tasks when the harness is not there.

    Raises:
        PluginError: It is not installed.
    """
    if config is not None and config.tasks and find_spec("lm_eval") is None:
        raise PluginError(
            "plugin.inference.harness names tasks, and lm-evaluation-harness is not installed.",
            hint="pip install 'lm_eval[api]' beside trainbus, or leave the tasks out.",
            missing="lm_eval",
        )


async def evaluate(config: InferenceConfig, harness: HarnessConfig, task: str, model: str, key: str) -> TaskResult:
    """Run one task against the server.

    Raises:
        AskError: It failed or took too long; the process has ended then.
    """
    alone = msgspec.structs.replace(harness, tasks=(task,))
    url = config.url.rstrip("/")
    order = Order(url=url, model=model, harness=alone, concurrency=config.concurrency, timeout=config.timeout, system=config.system)
    environment = os.environ | ({"OPENAI_API_KEY": key} if key else {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "none")})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment, limit=OUTPUT_BYTES,
    )  # fmt: skip
    try:
        async with asyncio.timeout(harness.seconds):
            output, errors = await process.communicate(msgspec.json.encode(order))
    except TimeoutError as error:
        problem = f"lm-evaluation-harness did not finish {task} within {harness.seconds:g} s (plugin.inference.harness.seconds)."
        raise AskError(Fault.TROUBLE, problem) from error
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode or not output:
        told = errors.decode("utf-8", "replace").strip().splitlines()
        raise AskError(Fault.TROUBLE, f"lm-evaluation-harness failed at {task}: {short(told[-1]) if told else 'it said nothing'}")
    try:
        return msgspec.json.decode(output, type=TaskResult)
    except DECODE_ERRORS as error:
        raise AskError(Fault.TROUBLE, f"lm-evaluation-harness ended {task} with what is no result: {error}.") from error


def finite(metrics: dict[str, object]) -> dict[str, float]:
    """The numbers among a task's results."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)}
