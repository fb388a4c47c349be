"""A relay between clients and broker that repeats, swaps and drops whole messages: what TCP never does, and middle boxes might."""

from __future__ import annotations

import random
import threading

import zmq

POLL_MS = 20


class Relay:
    """Stands before ROUTER and XPUB of a broker; `router` and `xpub` are its own addresses.

    Args:
        repeat: Part of the messages that come twice.
        swap: Part of the messages that come behind the next one of the same direction.
        drop: Part of the fan-out's frames that never come; messages of the request socket are never dropped.
    """

    def __init__(self, router: str, xpub: str, chance: random.Random, *, repeat: float = 0.2, swap: float = 0.2, drop: float = 0.1) -> None:
        self._chance = chance
        self._repeat, self._swap, self._drop = repeat, swap, drop
        self._context = zmq.Context()
        self._target = router
        self._front = self._context.socket(zmq.ROUTER)
        self._publishing = self._context.socket(zmq.XPUB)
        self._subscribing = self._context.socket(zmq.XSUB)
        for socket in (self._front, self._publishing, self._subscribing):
            socket.linger = 0
            socket.set_hwm(100_000)
        self.router = f"tcp://127.0.0.1:{self._front.bind_to_random_port('tcp://127.0.0.1')}"
        self.xpub = f"tcp://127.0.0.1:{self._publishing.bind_to_random_port('tcp://127.0.0.1')}"
        self._subscribing.connect(xpub)
        self._backs: dict[bytes, zmq.Socket] = {}
        self._held: dict[object, list[bytes]] = {}
        self.meddled = 0
        """Messages that were repeated, swapped or dropped."""
        self.honest = threading.Event()
        """When set, everything passes as it comes."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(20)
        self._context.destroy(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._front, self._publishing, self._subscribing):
            poller.register(socket, zmq.POLLIN)
        while not self._ended.is_set():
            ready = dict(poller.poll(POLL_MS))
            if self._front in ready:
                identity, *frames = self._front.recv_multipart()
                if identity not in self._backs:
                    back = self._context.socket(zmq.DEALER)
                    back.linger = 0
                    back.connect(self._target)
                    self._backs[identity] = back
                    poller.register(back, zmq.POLLIN)
                self._pass(self._backs[identity], b"", frames, identity)
            for identity, back in self._backs.items():
                if back in ready:
                    self._pass(self._front, identity, back.recv_multipart(), back)
            if self._publishing in ready:
                self._subscribing.send_multipart(self._publishing.recv_multipart())
            if self._subscribing in ready:
                frames = self._subscribing.recv_multipart()
                if not self.honest.is_set() and self._chance.random() < self._drop:
                    self.meddled += 1
                else:
                    self._pass(self._publishing, b"", frames, self._subscribing)
            if not ready:
                self._release()

    def _pass(self, to: zmq.Socket, identity: bytes, frames: list[bytes], direction: object) -> None:
        whole = [identity, *frames] if identity else frames
        held = self._held.pop(direction, None)
        draw = 1.0 if self.honest.is_set() else self._chance.random()
        if held is None and draw < self._swap:
            self._held[direction] = [to, whole]
            self.meddled += 1
            return
        to.send_multipart(whole)
        if self._swap <= draw < self._swap + self._repeat:
            self.meddled += 1
            to.send_multipart(whole)
        if held is not None:
            held[0].send_multipart(held[1])

    def _release(self) -> None:
        """Nothing comes behind which the held ones could go."""
        for to, whole in self._held.values():
            to.send_multipart(whole)
        self._held.clear()
