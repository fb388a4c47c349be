"""A tracker for every Accelerator whose script uses trackers. Trainers that use Accelerate inside use none of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from trainbus.inject import runs
from trainbus.inject.frameworks import guarded, wrap


def inject(module: ModuleType) -> None:
    """``init_trackers`` adds one of ours to those that the script has chosen; none when it has chosen ours by itself."""
    wrap(module.Accelerator, "init_trackers", _init_trackers)


def _init_trackers(original: Callable[..., Any], accelerator: Any, *args: Any, **kwargs: Any) -> Any:
    result = original(accelerator, *args, **kwargs)
    _add(accelerator, *args, **kwargs)
    return result


@guarded("the tracker for accelerate could not be added")
def _add(accelerator: Any, project_name: str = "", config: dict[str, Any] | None = None, init_kwargs: Any = None) -> None:
    if not accelerator.is_main_process or any(tracker.name == "trainbus" for tracker in accelerator.trackers):
        return
    from trainbus.loggers.accelerate import TrainbusTracker

    class Guarded(TrainbusTracker):
        """What the script logs never fails because of us."""

        log = guarded("accelerate's log could not be published")(TrainbusTracker.log)
        finish = guarded("accelerate's run could not be ended")(TrainbusTracker.finish)

    accelerator.trackers.append(Guarded(project_name, run=runs.begin({"project": project_name, **(config or {})})))
