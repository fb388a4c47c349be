"""`TrainbusTracker`: ``Accelerator(log_with=TrainbusTracker("my-run"))``. Importing this module imports accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.tracking import GeneralTracker, on_main_process

from trainbus.loggers.sorting import publish

if TYPE_CHECKING:
    from trainbus.bus.run import Run

NOT_STEERED = "this training has a loop of its own, which a tracker can't steer"


class TrainbusTracker(GeneralTracker):
    """Publishes what ``accelerator.log(values, step=...)`` is given, on the main process.

    Values named ``val_*``, ``eval_*`` or ``test_*`` are an evaluation, all others belong to the step. Without ``step`` the calls are
    counted. ``accelerator.end_training()`` ends the run. Commands (pause, stop, ...) are refused: only the loop itself could obey;
    use `trainbus.init` in it where you want them.

    Args:
        run_name: The run's name; ``accelerator.init_trackers(name)`` does not change it.
        run: Publish to this run, which is then not closed here.
        options: Of `trainbus.init`.
    """

    name = "trainbus"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, run_name: str = "accelerate", *, run: Run | None = None, **options: Any) -> None:
        super().__init__()
        self._run_name, self._options = run_name, options
        self._run, self._ours = run, run is None
        self._config: dict[str, Any] = {}
        self._step = 0

    @property
    def tracker(self) -> Run:
        """The run; it begins when it is first used."""
        if self._run is None:
            from trainbus.bus.run import init

            self._run = init(self._run_name, config=self._config, **self._options)
        return self._run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The configuration with which the run begins; Accelerate calls this before anything is logged."""
        self._config = {**self._config, **values}

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Publish one dictionary. Never waits for a device, never raises because of the bus."""
        self._step = step if step is not None else self._step + 1
        publish(self.tracker, values, self._step)
        for command in self.tracker.commands():
            self.tracker.result(command, "refused", NOT_STEERED)

    @on_main_process
    def finish(self) -> None:
        """The training has ended."""
        if self._run is not None and self._ours:
            self._run.close()
