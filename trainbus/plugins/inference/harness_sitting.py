"""One task of lm-evaluation-harness put to one checkpoint."""

from __future__ import annotations

from msgspec import Struct

from trainbus.plugins.inference.config import HarnessConfig, InferenceConfig
from trainbus.plugins.inference.engines import Engine
from trainbus.plugins.inference.harness import TaskResult, evaluate
from trainbus.plugins.inference.pending import Waiting

PREFIX = "lm_eval/"


class HarnessTask(Struct, frozen=True):
    """A task with its schedule. ``name`` is that of its dataset in events."""

    task: str
    harness: HarnessConfig
    take_every: int = 1
    at_steps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Apart from all sets of questions."""
        return PREFIX + self.task


def tasks_of(config: InferenceConfig) -> list[HarnessTask]:
    """What the configuration names."""
    harness = config.harness
    return [] if harness is None else [HarnessTask(task, harness, harness.take_every, harness.at_steps) for task in harness.tasks]


class HarnessSitting:
    """Runs the whole task at each try; only its result is published.

    Attributes:
        reported: The result was published.
    """

    def __init__(self, task: HarnessTask, entry: Waiting, config: InferenceConfig, key: str) -> None:
        self.task = task
        self.entry = entry
        self.config = config
        self.result: TaskResult | None = None
        self.reported = False
        self._key = key

    @property
    def name(self) -> str:
        """Its dataset in events."""
        return self.task.name

    @property
    def size(self) -> int:
        """Examples that it had; unknown before, which counts as one."""
        return (self.result.examples if self.result else None) or 1

    @property
    def answered(self) -> int:
        """All or none."""
        return self.size if self.result else 0

    async def ask(self, engine: Engine, model: str) -> None:
        """Have the task run.

        Raises:
            AskError: It failed.
        """
        self.result = await evaluate(self.config, self.task.harness, self.task.task, model, self._key)

    def publish_rest(self) -> None:
        """There is nothing but the result."""
