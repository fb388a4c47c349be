"""Metric values: from whatever a training loop has at hand to a float, without importing torch or numpy.

Numbers, numpy scalars and tensors with one element on the CPU are read at once. A tensor on an accelerator is copied to pinned host
memory asynchronously, on its own stream, behind the work that computes it; the event waits for the copy, the training thread doesn't.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import nan
from typing import Any

from msgspec import Struct

from trainbus.bus.events import Event, Metric, Sample, Step

_SCALAR_FIELDS: dict[type[Event], tuple[str, float | None]] = {Metric: ("value", nan), Sample: ("loss", None)}
"""Fields that hold one measured number, with what they hold while there is none."""
_FLOATS = frozenset({float})


class Copy:
    """A value on its way from an accelerator.

    Args:
        target: The dict, or the event, that wants the value.
        key: Its key, or its field.
        read: Gives the number; called once ``done`` says True.
        done: Whether the copy has arrived.
    """

    __slots__ = ("_done", "_key", "_read", "_target")

    def __init__(self, target: dict[str, float] | Event, key: str, read: Callable[[], Any], done: Callable[[], bool]) -> None:
        self._target, self._key, self._read, self._done = target, key, read, done

    def ready(self) -> bool:
        """Whether `settle` gives the value without waiting for the device."""
        return bool(self._done())

    def settle(self) -> None:
        """Put the value in its place."""
        _put(self._target, self._key, float(self._read()))


def settle_step(event: Event) -> bool:
    """`settle` for what most steps are: floats, ints and tensors on the CPU, under the names and beside the counts that readers expect.

    Returns:
        Whether the event is such a step. Nothing has to be settled or tried any more then; otherwise it is as it was.
    """
    if type(event) is not Step or type(event.run) is not str:
        return False
    metrics: dict[str, Any] = event.metrics
    own: dict[str, Any] | None = None
    for name, value in metrics.items():
        if type(value) is not float:
            try:
                number = value if type(value) is int else value.item() if value.is_cpu is True else None
                if type(number) is int:
                    number = float(number)
                elif type(number) is not float:
                    return False
            except Exception:  # noqa: BLE001 - anything can be given as a metric; `settle` says what is wrong with it
                return False
            if own is None:
                own = dict(metrics)  # the caller's own dict stays as it is
            own[name] = number
        if type(name) is not str:
            return False
    epoch = event.epoch
    if type(event.step) is not int or type(event.rank) is not int or not (epoch is None or type(epoch) is float or type(epoch) is int):
        return False
    for count in (event.total_steps, event.examples, event.tokens):
        if count is not None and type(count) is not int:
            return False
    if own is not None:
        event.metrics = own
    return True


def settle(event: Event, complain: Callable[[str, object], None]) -> list[Copy] | None:
    """Make the numbers of an event floats, in place. What is no number is left out, after ``complain(key, value)``.

    Returns:
        The values that are still on an accelerator (their places are empty until then), or None when there are none.
    """
    copies: list[Copy] = []
    metrics: dict[str, Any] | None = getattr(event, "metrics", None)
    if metrics is not None and not _FLOATS.issuperset(map(type, metrics.values())):
        event.metrics = metrics = dict(metrics)  # type: ignore[attr-defined]
        for key, value in list(metrics.items()):
            if type(value) is not float:
                _settle_one(metrics, key, value, copies, complain)
    if (place := _SCALAR_FIELDS.get(type(event))) is not None:
        value = getattr(event, place[0])
        if value is not None and type(value) is not float:
            _settle_one(event, place[0], value, copies, complain)
    return copies or None


def without_surrogates(value: Any) -> Any:
    """A copy whose texts are valid Unicode: lone surrogates (half an emoji from a broken JSON file) become ``\\udXXX``."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_surrogates(item) for item in value]
    if isinstance(value, Struct):
        return type(value)(**{name: without_surrogates(getattr(value, name)) for name in value.__struct_fields__})
    return value


def _settle_one(target: dict[str, Any] | Event, key: str, value: Any, copies: list[Copy], complain: Callable[[str, object], None]) -> None:
    try:
        if isinstance(value, (str, bytes)):  # float("1") would take them
            _leave_empty(target, key)
            complain(key, value)
        elif not hasattr(value, "item") or isinstance(value, (int, float)):
            _put(target, key, float(value))
        elif getattr(getattr(value, "device", "cpu"), "type", "cpu") == "cpu":
            _put(target, key, float(value.item()))
        else:
            copies.append(_copy(target, key, value))
            _leave_empty(target, key)
    except Exception:  # noqa: BLE001 - anything can be given as a metric, and it may raise anything
        _leave_empty(target, key)
        complain(key, value)


def _copy(target: dict[str, Any] | Event, key: str, tensor: Any) -> Copy:
    """Start copying. torch puts the result of a non-blocking copy to the CPU into pinned memory, so that it doesn't wait."""
    if tensor.numel() != 1:
        raise ValueError("more than one element")
    device = tensor.device
    for base in type(tensor).__mro__:
        backend: Any = getattr(sys.modules.get(base.__module__.partition(".")[0]), device.type, None)
        if hasattr(backend, "Event"):
            break
    else:
        return Copy(target, key, tensor.detach().item, lambda: True)  # waits for the device, but on the owner thread
    host = tensor.detach().to("cpu", non_blocking=True)
    event = backend.Event()
    if hasattr(backend, "current_stream"):
        event.record(backend.current_stream(device))
    else:
        event.record()
    return Copy(target, key, host.item, event.query)


def _put(target: dict[str, Any] | Event, key: str, value: float) -> None:
    if isinstance(target, dict):
        target[key] = value
    else:
        setattr(target, key, value)


def _leave_empty(target: dict[str, Any] | Event, key: str) -> None:
    """No value (yet): a metric is absent, a field has its default."""
    if isinstance(target, dict):
        target.pop(key, None)
    else:
        setattr(target, key, _SCALAR_FIELDS[type(target)][1])
