"""The callback for transformers' Trainer and all that derive from it: TRL, Axolotl, LLaMA-Factory, Unsloth."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trainbus.inject import runs
from trainbus.inject.frameworks import guarded, wrap

_ours: set[Any] = set()


def inject(module: ModuleType) -> None:
    """Every ``train()`` of every Trainer begins with attaching the callback to it."""
    wrap(module.Trainer, "train", _train)


def _train(original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    callback = _attach(trainer)
    try:
        return original(trainer, *args, **kwargs)
    finally:
        if callback is not None:
            _detach(callback)


@guarded("the callback for transformers could not be attached")
def _attach(trainer: Any) -> Any:
    if not trainer.is_world_process_zero():
        return None
    from trainbus.trainer_node.callback import TrainbusCallback, attach

    for known in [one for one in trainer.callback_handler.callbacks if isinstance(one, TrainbusCallback)]:
        if known not in _ours:
            return None  # the script has attached one by itself
        known.unbind()  # of an earlier train() of this Trainer
        _ours.discard(known)
    callback = attach(trainer, runs.begin(_config(trainer)))
    _ours.add(callback)
    return callback


@guarded("the callback for transformers could not be finished")
def _detach(callback: Any) -> None:
    callback.close()
    if callback.stopped:
        runs.stopped(callback.stopped)


def _config(trainer: Any) -> dict[str, Any]:
    """The training's arguments (secrets are masked by transformers itself) and what is trained."""
    model = getattr(trainer, "model", None)
    told = {"trainer": type(trainer).__name__, "model": getattr(getattr(model, "config", None), "_name_or_path", "")}
    if "trl" in sys.modules:
        told["trl"] = str(getattr(sys.modules["trl"], "__version__", ""))
    return {**told, **trainer.args.to_dict()}
