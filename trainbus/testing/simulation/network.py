"""Connections that are slow, break, repeat themselves and get out of order, and a fan-out that drops."""

from __future__ import annotations

from collections.abc import Callable

from trainbus.bus import wire
from trainbus.testing.simulation.world import World


class Weather:
    """How bad the network is at present. All are probabilities for one message, or seconds."""

    def __init__(self) -> None:
        self.latency = 0.002
        self.lose = 0.0
        self.repeat = 0.0
        self.reorder = 0.0
        self.drop_frame = 0.0

    def heal(self) -> None:
        """A perfect network from here on."""
        self.__init__()  # type: ignore[misc]


class Connection:
    """A DEALER's connection to the ROUTER: both ways in order, unless the weather is bad.

    Messages travel as bytes. Whatever is on its way when the connection breaks is lost.
    """

    def __init__(
        self,
        world: World,
        weather: Weather,
        peer: bytes,
        to_broker: Callable[[bytes, bytes], None],
        to_peer: Callable[[wire.AnyMessage], None],
    ) -> None:
        self.peer = peer
        self.open = True
        self._world = world
        self._weather = weather
        self._to_broker = to_broker
        self._to_peer = to_peer
        self._arrival = {True: 0.0, False: 0.0}

    def send(self, message: wire.Message) -> None:
        """Peer to broker."""
        frame = wire.encode(message)
        self._travel(lambda: self._to_broker(self.peer, frame), up=True)

    def answer(self, message: wire.Message) -> None:
        """Broker to peer."""
        frame = wire.encode(message)
        self._travel(lambda: self._to_peer(wire.decode_message(frame)), up=False)

    def cut(self) -> None:
        """Break; nothing more arrives on either side."""
        self.open = False

    def _travel(self, arrive: Callable[[], None], *, up: bool) -> None:
        world, weather = self._world, self._weather
        draw = world.random.random

        def deliver() -> None:
            if self.open:
                arrive()

        if draw() < weather.lose:
            return
        moment = world.time + weather.latency * (0.5 + draw())
        if draw() >= weather.reorder:
            moment = self._arrival[up] = max(moment, self._arrival[up])
        world.after(moment - world.time, deliver)
        if draw() < weather.repeat:
            world.after(moment - world.time + weather.latency * 5 * draw(), deliver)
