"""The callback for Lightning's Trainer, under both of its names (``lightning.pytorch`` and ``pytorch_lightning``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from trainbus.inject import runs
from trainbus.inject.frameworks import guarded, wrap

HOOKS = (
    "on_train_start", "on_train_batch_end", "on_before_optimizer_step", "on_validation_start", "on_validation_end", "on_train_end",
)  # fmt: skip


def inject(module: ModuleType) -> None:
    """Every ``fit()`` of every Trainer begins with adding the callback."""
    package = module.__name__.removesuffix(".trainer.trainer")
    wrap(module.Trainer, "fit", partial(_fit, package))


def _fit(package: str, original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    work = _attach(package, trainer, args, kwargs)
    try:
        return original(trainer, *args, **kwargs)
    finally:
        if work is not None:
            _detach(work)


@guarded("the callback for Lightning could not be attached")
def _attach(package: str, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not trainer.is_global_zero or any(type(logger).__name__ == "TrainbusLogger" for logger in trainer.loggers):
        return None
    from trainbus.inject.lightning_work import Work

    trainer.callbacks = [one for one in trainer.callbacks if not getattr(one, "trainbus_work", None)]
    work = Work(runs.begin(_config(trainer, args[0] if args else kwargs.get("model"))), trainer)
    trainer.callbacks.append(_callback(package, work))
    return work


@guarded("the callback for Lightning could not be finished")
def _detach(work: Any) -> None:
    work.close()
    if work.stopped:
        runs.stopped(work.stopped)


def _callback(package: str, work: Any) -> Any:
    """A callback of the package that the script uses: the two have different base classes."""
    base = import_module(f"{package}.callbacks").Callback
    methods: dict[str, Any] = {name: _hook(getattr(work, name)) for name in HOOKS}
    return type("TrainbusCallback", (base,), {**methods, "trainbus_work": work})()


def _hook(method: Callable[..., None]) -> Callable[..., None]:
    def hook(self: Any, *args: Any, **kwargs: Any) -> None:
        guarded("the callback for Lightning failed")(method)(*args, **kwargs)

    return hook


def _config(trainer: Any, model: Any) -> dict[str, Any]:
    told = {
        "trainer": "lightning",
        "model": type(model).__name__,
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "devices": trainer.num_devices,
    }
    return {**told, **dict(getattr(model, "hparams", None) or {})}
