"""The processes of one training, and how they come to the same decision at the same step.

Imports torch and accelerate inside: load only where training runs. What is exchanged passes over a gloo group of its own, on the host: it
never waits for a device, and it may take as long as a pause does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from trainbus.errors import ConfigError

PATIENCE = timedelta(hours=12)
"""A process may wait so long for the others: one saves to a slow disk, or generates answers, while they wait."""


def asked_processes() -> int:
    """How many processes a launcher (torchrun, accelerate) says that there are."""
    return int(os.environ.get("WORLD_SIZE") or 1)


class Ranks:
    """One process among ``size``; alone, it agrees with itself at once.

    Args:
        group: The group of torch.distributed over which they talk; None for one process.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self._group = group

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every process, in the order of their ranks. All must call it, with equally many."""
        if self.size == 1:
            return [list(values)]
        import torch
        from torch import distributed

        told = [torch.zeros(len(values), dtype=torch.float64) for _ in range(self.size)]
        distributed.all_gather(told, torch.tensor(list(values), dtype=torch.float64), group=self._group)
        return [one.tolist() for one in told]

    def share(self, message: bytes, length: int) -> bytes:
        """The message of rank 0, on every rank; ``length`` is known to all."""
        if self.size == 1:
            return message
        import torch
        from torch import distributed

        tensor = torch.tensor(list(message), dtype=torch.uint8) if self.rank == 0 else torch.zeros(length, dtype=torch.uint8)
        distributed.broadcast(tensor, src=0, group=self._group)
        return bytes(tensor.tolist())

    def share_text(self, text: str) -> str:
        """The text of rank 0, on every rank."""
        message = text.encode()
        return self.share(message, int(self.gather([float(len(message))])[0][0])).decode()

    def any(self, true: bool) -> bool:
        """Whether it is true of one of them."""
        return any(value for (value,) in self.gather([float(true)]))

    def wait(self) -> None:
        """Until all are here."""
        self.gather([0.0])

    @contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 does what is inside, and then the others, who find what it has made. When it fails, they try by themselves."""
        if self.rank:
            self.wait()
        try:
            yield
        finally:
            if not self.rank:
                self.wait()


def join() -> Ranks:
    """Meet the other processes that the launcher has started; alone without a launcher.

    Raises:
        ConfigError: They don't find each other: each would train by itself.
    """
    asked = asked_processes()
    if asked == 1:
        return Ranks()
    import torch
    from accelerate import PartialState
    from torch import distributed

    PartialState(cpu=not torch.cuda.is_available())
    came = distributed.get_world_size() if distributed.is_initialized() else 1
    if came != asked:
        raise ConfigError(
            f"{asked} processes were asked for (WORLD_SIZE), and {came} came together: each would train by itself.",
            hint="Start it with torchrun or accelerate launch, which set RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as well.",
            found=came,
            allowed=asked,
        )
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return Ranks(distributed.get_rank(), came, group)
