"""Metric values: anything that is a number, from anywhere, without stopping the device."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.sending.stand_in import StandIn, wait_for
from trainbus.bus import publisher as publisher_module
from trainbus.bus import values
from trainbus.bus.config import BusConfig
from trainbus.bus.events import Checkpoint, Metric, Sample, Step
from trainbus.bus.publisher import Publisher

Make = Callable[..., Publisher]


@pytest.fixture
def broker(root: Path) -> Iterator[StandIn]:
    with StandIn(root) as stand_in:
        yield stand_in


def settled(**metrics: Any) -> tuple[dict[str, float], list[str]]:
    event, refused = Step(metrics=metrics), []
    assert values.settle(event, lambda key, value: refused.append(key)) is None
    return event.metrics, refused


class Device:
    """An accelerator whose work is done when somebody says so; speaks the part of torch's interface that is used."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.synchronized = 0
        self.queue = 0


class FakeDeviceName:
    def __init__(self, kind: str) -> None:
        self.type = kind


class FakeTensor:
    """A tensor on a device; reading it waits for the device, which the test counts as a fault."""

    def __init__(self, value: float, device: Device, kind: str = "gpu", size: int = 1) -> None:
        self.value, self.real_device, self.device, self.size = value, device, FakeDeviceName(kind), size

    def numel(self) -> int:
        return self.size

    def detach(self) -> FakeTensor:
        return self

    def item(self) -> float:
        if self.device.type != "cpu":
            self.real_device.synchronized += 1
        return self.value

    def to(self, where: str, *, non_blocking: bool) -> FakeTensor:
        assert (where, non_blocking) == ("cpu", True)
        return FakeTensor(self.value, self.real_device, "cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device behind the module that `FakeTensor` comes from, as ``torch.cuda`` is behind ``torch.Tensor``."""
    device = Device()

    class Event:
        def record(self, stream: object) -> None:
            assert stream == "stream"

        def query(self) -> bool:
            return device.done.is_set()

    library = types.ModuleType("faketorch")
    library.gpu = types.SimpleNamespace(Event=Event, current_stream=lambda _: "stream")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faketorch", library)
    monkeypatch.setattr(FakeTensor, "__module__", "faketorch.tensors")
    return device


def test_numbers_of_all_kinds_become_floats() -> None:
    metrics, refused = settled(
        a=1, b=True, c=numpy.float32(0.5), d=numpy.int64(3), e=numpy.array(2.5), f=numpy.array([7]), g=2.5, h=numpy.float64(1.5)
    )
    assert metrics == {"a": 1.0, "b": 1.0, "c": 0.5, "d": 3.0, "e": 2.5, "f": 7.0, "g": 2.5, "h": 1.5}
    assert {type(value) for value in metrics.values()} == {float}
    assert refused == []


def test_nan_and_infinities_travel_as_they_are() -> None:
    metrics, _ = settled(a=math.nan, b=numpy.float32("inf"))
    assert math.isnan(metrics["a"])
    assert metrics["b"] == math.inf


def test_what_is_no_number_is_left_out_by_name() -> None:
    metrics, refused = settled(a="1.0", b=numpy.array([1, 2]), c=None, d=object(), e=10**400, f=1j, g=0.5)
    assert metrics == {"g": 0.5}
    assert refused == ["a", "b", "c", "d", "e", "f"]


def test_the_caller_s_dict_is_not_changed() -> None:
    mine = {"a": 1, "b": "x"}
    values.settle(Step(metrics=mine), lambda key, value: None)  # type: ignore[arg-type]
    assert mine == {"a": 1, "b": "x"}


def test_a_bad_metric_is_said_once_and_the_event_is_published_without_it(
    make: Make, broker: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = make()
    for _ in range(2):
        publisher.publish(Step(metrics={"loss": 1.0, "note": "great"}))  # type: ignore[dict-item]
    assert publisher.flush(90)
    assert [event.metrics for event in broker.all] == [{"loss": 1.0}, {"loss": 1.0}]
    assert sum("'note'" in record.getMessage() for record in caplog.records) == 1


def test_events_keep_their_order_behind_a_value_on_an_accelerator_and_nobody_waits(make: Make, broker: StandIn, device: Device) -> None:
    """An event whose loss is still being computed waits for it, those behind it wait, too, and publish() returns."""
    publisher = make()
    publisher.publish(Step(step=0, metrics={"loss": 0.5}))
    publisher.publish(Step(step=1, metrics={"loss": FakeTensor(1.5, device), "lr": 0.1}))  # type: ignore[dict-item]
    publisher.publish(Step(step=2, metrics={"loss": 2.5}))
    wait_for(lambda: len(broker.all) == 1)
    assert publisher.stats().waiting == 2
    device.done.set()
    assert publisher.flush(90)
    wait_for(lambda: len(broker.all) == 3)
    assert [(event.seq, event.step, event.metrics["loss"]) for event in broker.all] == [(0, 0, 0.5), (1, 1, 1.5), (2, 2, 2.5)]
    assert broker.all[1].metrics["lr"] == 0.1
    assert broker.all[1].time <= broker.all[2].time
    assert device.synchronized == 0


def test_scalar_fields_may_be_on_an_accelerator_too(make: Make, broker: StandIn, device: Device) -> None:
    device.done.set()
    publisher = make()
    publisher.publish(Metric(name="m", value=FakeTensor(4.5, device)))  # type: ignore[arg-type]
    publisher.publish(Sample(loss=FakeTensor(5.5, device)))  # type: ignore[arg-type]
    publisher.publish(Sample(loss="none"))  # type: ignore[arg-type]
    wait_for(lambda: len(broker.all) == 3)
    assert (broker.all[0].value, broker.all[1].loss, broker.all[2].loss) == (4.5, 5.5, None)


def test_a_value_that_never_arrives_does_not_keep_close_from_ending(make: Make, broker: StandIn, device: Device) -> None:
    """The event is published without it."""
    publisher = make()
    publisher.publish(Step(step=1, metrics={"loss": FakeTensor(1.5, device), "lr": 0.1}))  # type: ignore[dict-item]
    assert publisher.close(20)
    assert [(event.step, event.metrics) for event in broker.all] == [(1, {"lr": 0.1})]


def test_an_urgent_event_waits_a_moment_for_the_values_before_it(
    make: Make, broker: StandIn, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "URGENT_WAIT_SECONDS", 20.0)
    publisher = make()
    publisher.publish(Step(step=1, metrics={"loss": FakeTensor(1.5, device)}))  # type: ignore[dict-item]
    timer = threading.Timer(0.05, device.done.set)
    timer.start()
    publisher.publish(Checkpoint(id="c"))
    assert publisher.stats().waiting == 0
    timer.join()


def test_a_device_without_events_is_read_by_the_owner_thread(make: Make, broker: StandIn, device: Device) -> None:
    publisher = make()
    publisher.publish(Step(step=1, metrics={"loss": FakeTensor(1.5, device, kind="odd")}))  # type: ignore[dict-item]
    wait_for(lambda: len(broker.all) == 1)
    assert broker.all[0].metrics == {"loss": 1.5}


def test_a_tensor_with_many_elements_is_left_out(make: Make, broker: StandIn, device: Device) -> None:
    publisher = make()
    publisher.publish(Step(step=1, metrics={"loss": FakeTensor(1.5, device, size=2)}))  # type: ignore[dict-item]
    assert publisher.flush(90)
    assert broker.all[0].metrics == {}


def test_values_that_don_t_arrive_hold_back_a_bounded_number_of_events(make: Make, broker: StandIn, device: Device) -> None:
    publisher = make(settings=BusConfig(spool_segment_bytes=65_536, memory_events=10))
    for step in range(25):
        publisher.publish(Step(step=step, metrics={"loss": FakeTensor(1.5, device)}))  # type: ignore[dict-item]
    assert publisher.stats().waiting == 10
    wait_for(lambda: len(broker.all) == 15)


def test_torch_tensors_work_without_the_bus_importing_torch() -> None:
    """The sending side reads tensors by their methods; torch is there only if the trainer loaded it."""
    code = (
        "import sys, trainbus.bus.run; assert not {'torch', 'numpy', 'pluggy', 'click', 'rich', 'asyncio'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    torch = pytest.importorskip("torch")
    metrics, refused = settled(
        a=torch.tensor(1.5, requires_grad=True), b=torch.tensor([2]), c=torch.tensor(True), d=torch.tensor(0.5).bfloat16()
    )
    assert metrics == {"a": 1.5, "b": 2.0, "c": 1.0, "d": 0.5}
    assert refused == []


class CpuTensor:
    """What a tensor on the CPU shows."""

    is_cpu = True

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


def test_a_step_of_floats_ints_and_cpu_tensors_is_settled_at_once():
    """The short way; the caller's dict stays as it is."""
    given = {"loss": CpuTensor(0.5), "epoch": 2, "rate": 0.1}
    event = Step(step=1, metrics=given)
    assert values.settle_step(event)
    assert event.metrics == {"loss": 0.5, "epoch": 2.0, "rate": 0.1}
    assert all(type(value) is float for value in event.metrics.values())
    assert type(given["epoch"]) is int


@pytest.mark.parametrize(
    "event",
    [
        Step(step=1, metrics={"a": True}),
        Step(step=1, metrics={"a": "1"}),
        Step(step=1, metrics={"a": None}),
        Step(step=1, metrics={"a": CpuTensor([1.0, 2.0])}),
        Step(step=1, metrics={"a": 10**400}),
        Step(step=1, metrics={1: 1.0}),
        Step(step="1", metrics={}),
        Step(step=1, metrics={}, epoch="1"),
        Step(step=1, metrics={}, tokens=1.0),
        Step(step=1, run=3),
        Metric(name="m", value=1.0),
    ],
    ids=repr,
)
def test_everything_else_goes_the_long_way_untouched(event):
    """Nothing is decided about it here."""
    before = dict(getattr(event, "metrics", {}))
    assert not values.settle_step(event)
    assert getattr(event, "metrics", {}) == before
