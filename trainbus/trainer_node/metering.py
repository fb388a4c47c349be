"""What one optimizer step was: gathered from the wrapped methods of a Trainer, and published when the step ends.

This is what every step of every training pays, so it is one object with few fields and no helper in between.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainbus.trainer_node.agreeing import Agreement
from trainbus.trainer_node.allocators import Allocators

if TYPE_CHECKING:
    from trainbus.bus.run import Run


class Meter:
    """Counts and measures for one training. Losses stay on the device as 0-d tensors.

    Args:
        run: Where steps are published.
        examples: Examples seen before this process began.
        tokens: Tokens seen before, padding included: counting what is not padding would have to ask the device.
        failed: Told of a failure in here, which never reaches the training.

    Attributes:
        examples, tokens, steps: Counts so far.
        rows: Rows seen in this process's time: examples, or packs of them.
        packs: Where rows are packs: how many examples each micro-batch to come holds. None: each row is one.
        counted: Examples of the last step, in this process.
        loss, grad_norm: Of the step that is under way, or has just ended.
        first_loss, last_loss: Of the first step and of the last one that ended.
    """

    def __init__(self, run: Run, examples: int, tokens: int, failed: Callable[[str, Exception], None]) -> None:
        self._run, self._failed = run, failed
        self.examples, self.tokens, self.steps = examples, tokens, 0
        self.rows = self.counted = 0
        self.packs: deque[int] | None = None
        self.loss: Any = None
        self.grad_norm: Any = None
        self.first_loss: Any = None
        self.last_loss: Any = None
        self.allocators = Allocators()
        self._group: Mapping[str, Any] = {}
        self._agreement: Agreement | None = None
        self._world = 1
        self._learning_rate: Any = None
        self._batch_rows = self._batch_examples = self._batch_tokens = 0
        self._mark = 0.0

    def bind(self, world: int, agreement: Agreement | None) -> None:
        """The training has so many processes."""
        self._world, self._agreement = world, agreement

    def begin(self, group: Mapping[str, Any]) -> None:
        """The first step is about to begin; ``group`` is the optimizer's first, which has the learning rate."""
        self._group = group  # it lives as long as the training; the way to it is a detour at each step
        self.mark()
        if self._agreement is not None:
            self._agreement.own.begin()

    def mark(self) -> None:
        """What was until now does not count as time of a step."""
        self._mark = time.perf_counter()

    def training_step(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Around Trainer's method: its result is the raw loss of a micro-batch."""
        loss = original(model, inputs, *args, **kwargs)
        try:
            self._learning_rate = self._group.get("lr")  # now, because the schedule has moved on when the step ends
            # Detached and already divided for gradient accumulation: the sum over micro-batches is the loss that Trainer logs.
            self.loss = loss if self.loss is None else self.loss + loss
            ids = inputs.get("input_ids") if hasattr(inputs, "get") else None
            if ids is not None:
                shape = ids.shape
                self._batch_rows += shape[0]
                self._batch_examples += self.packs.popleft() if self.packs else shape[0]
                self._batch_tokens += shape.numel()
            if self._agreement is not None:
                self._agreement.own.begin()
        except Exception as error:  # noqa: BLE001 - a Trainer of somebody's own may give anything here
            self._failed("training_step", error)
        return loss

    def grad_norm_of(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around Trainer's method: the norm that it computes anyway."""
        self.grad_norm = original(*args, **kwargs)
        return self.grad_norm

    def publish(self, state: Any) -> None:
        """The step has ended."""
        now = time.perf_counter()
        elapsed = now - self._mark or math.inf
        examples, tokens = self._batch_examples * self._world, self._batch_tokens * self._world
        self.examples += examples
        self.rows += self._batch_rows * self._world
        self.counted = self._batch_examples
        self.tokens += tokens
        self.steps += 1
        metrics: dict[str, Any] = {"tokens_per_second": tokens / elapsed, "samples_per_second": examples / elapsed}
        if self.loss is not None:
            metrics["loss"] = self.loss
        if self.grad_norm is not None:
            metrics["grad_norm"] = self.grad_norm
        if self._learning_rate is not None:
            metrics["learning_rate"] = self._learning_rate
        if self._agreement is not None:
            metrics |= self._agreement.pace(elapsed)
        if now >= self.allocators.due:
            metrics |= self.allocators.read()
        self._run.step(
            state.global_step, total_steps=state.max_steps, epoch=state.epoch, examples=self.examples, tokens=self.tokens, **metrics
        )
        if self.first_loss is None:
            self.first_loss = self.loss
        self.last_loss, self.loss = self.loss, None
        self._batch_rows = self._batch_examples = self._batch_tokens = 0
        self._mark = now

    def settle(self, examples: float) -> None:
        """So many examples had the last step in all processes: packs differ, so until now they were taken for alike."""
        self.examples += int(examples) - self.counted * self._world
        self.counted = 0
