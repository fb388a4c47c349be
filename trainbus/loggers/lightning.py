"""`TrainbusLogger`: ``Trainer(logger=TrainbusLogger("my-run"))``. Importing this module imports lightning, or pytorch_lightning."""

from __future__ import annotations

import os
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainbus.bus.events import RunStarted
from trainbus.bus.facts import plain
from trainbus.loggers.sorting import publish

if TYPE_CHECKING:
    from trainbus.bus.run import Run

# A script uses one of the two packages, whose classes are not each other's: that which it has imported already.
if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities.rank_zero import rank_zero_only
else:
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities.rank_zero import rank_zero_only


class TrainbusLogger(Logger):
    """Publishes what ``self.log`` logs: ``val_*`` and ``test_*`` as evaluations, all else as the step's metrics.

    Lightning hands metrics to loggers each ``log_every_n_steps`` (50): set it to 1 for every step. `trainbus exec` sees every raw
    loss whatever is logged, and lets commands steer the training; this logger does not.

    Args:
        name: The run's name.
        run: Publish to this run, which is then not closed here.
        options: Of `trainbus.init`.
    """

    def __init__(self, name: str = "lightning", *, run: Run | None = None, **options: Any) -> None:
        super().__init__()
        self._name, self._options = name, options
        self._run, self._ours = run, run is None
        self._config: dict[str, Any] = {}
        self._saved: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The run's name."""
        return self._name

    @property
    def version(self) -> str:
        """The run's id once it has begun; Lightning names folders of checkpoints after it."""
        return "" if self._run is None else self._run.id

    @property
    def experiment(self) -> Run | None:
        """The run; it begins when it is first used. None on other processes than the first."""
        run: Run | None = self._begun()
        return run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration. Lightning tells it after it has asked for `experiment`, so the beginning of the run is told again, with it."""
        self._config |= vars(params) if isinstance(params, Namespace) else dict(params)
        run = self._begun()
        if run is not None:
            run.publish(RunStarted(name=run.name, config=plain(self._config), host=socket.gethostname(), pid=os.getpid(), command=sys.argv))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Publish one dictionary. Never waits for a device, never raises because of the bus."""
        run = self._begun()
        if run is not None:
            publish(run, metrics, step or 0)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Publish checkpoints that are new and whole."""
        run = self._begun()
        paths = {checkpoint_callback.best_model_path, checkpoint_callback.last_model_path, *checkpoint_callback.best_k_models}
        for path in sorted(filter(None, paths)):
            saved = _modified(path)
            if run is not None and saved and self._saved.get(path) != saved:
                self._saved[path] = saved
                run.checkpoint(path, step=int(getattr(checkpoint_callback, "_last_global_step_saved", 0)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """The training has ended; ``fit`` and ``test`` of one script are one run, so it is the process that ends it."""
        if self._run is not None and self._ours and status == "failed":
            self._run.close("failed", reason="Lightning reports a failure")

    @rank_zero_only
    def _begun(self) -> Run:
        if self._run is None:
            from trainbus.bus.run import init

            self._run = init(self._name, config=self._config, **self._options)
        return self._run


def _modified(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0
