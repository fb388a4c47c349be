"""The process in which lm-evaluation-harness runs: an `Order` as JSON on stdin, a `TaskResult` on stdout, and nothing else there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from trainbus.plugins.inference.harness import Order, TaskResult, finite


def run(order: Order) -> TaskResult:
    """Evaluate the order's one task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    harness = order.harness
    arguments: dict[str, Any] = {
        "model": order.model,
        "base_url": f"{order.url}/{'chat/completions' if harness.chat else 'completions'}",
        "num_concurrent": order.concurrency,
        "timeout": int(order.timeout) or 1,
        "max_retries": 3,
        "tokenized_requests": False,
        "tokenizer_backend": "huggingface" if harness.tokenizer else None,
    }
    if harness.tokenizer:
        arguments["tokenizer"] = harness.tokenizer
    found = lm_eval.simple_evaluate(
        model="local-chat-completions" if harness.chat else "local-completions",
        model_args=arguments,
        tasks=list(harness.tasks),
        num_fewshot=harness.fewshot,
        limit=harness.limit or None,
        apply_chat_template=harness.chat,
        system_instruction=order.system or None,
        task_manager=TaskManager(include_path=harness.include or None),
        log_samples=False,
        bootstrap_iters=0,
    )
    if found is None:
        raise RuntimeError("lm-evaluation-harness gave no results")
    task = harness.tasks[0]
    examples = (found.get("n-samples") or {}).get(task, {}).get("effective")
    return TaskResult(metrics=finite(found["results"][task]), examples=examples, version=str((found.get("versions") or {}).get(task, "")))


def main() -> None:
    """Read, run, write. What the library prints goes nowhere: it would come before, in or, from a buffer, behind the result."""
    with os.fdopen(os.dup(1), "wb") as told, Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        told.write(msgspec.json.encode(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))))


if __name__ == "__main__":
    main()
