"""Rows: the line between trainer, reader and broker."""

from __future__ import annotations

from functools import partial

from tests.faults.frames import Relay
from tests.faults.matrix.row import row
from tests.faults.matrix.stage import BUS, PATIENCE, Stage
from tests.faults.proxy import Mood, Proxy
from tests.support import wait_for
from trainbus.bus.home import read_connection


def line(stage: Stage, mood: Mood, seconds: tuple[float, float]) -> None:
    """A trainer and a reader on the far side of a bad line; plugins are on the near side."""
    stage.up("alpha", "beta", bus={**BUS, "lost_after": 120.0})
    connection = read_connection(stage.root)
    router, xpub = Proxy(connection.router), Proxy(connection.xpub)
    stage.callback(router.close)
    stage.callback(xpub.close)
    stage.follower(router=router.address, xpub=xpub.address)
    trainer = stage.train("--router", router.address)
    stage.moment(trainer)
    wait_for(lambda: stage.followers[0].seen, PATIENCE, what="the reader to begin")
    for proxy in stage.chance.choice(((router,), (xpub,), (router, xpub))):
        proxy.become(mood)
    trainer.wait_for_seconds(stage.chance.uniform(*seconds))
    for proxy in (router, xpub):
        proxy.become("whole")
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


STAYS = "connections that it swallowed stay dead: recovery is until that is noticed and new ones are made"
row("link-cut", "the line is cut and stays so for a while", "D3 D5")(partial(line, mood="cut", seconds=(0.1, 4.0)))
row("link-half-open", "the line is half open: what the broker says never arrives", "D3 D5", note=STAYS)(
    partial(line, mood="half-open", seconds=(0.5, 5.0))
)
row("link-black-hole", "the line is a black hole", "D3 D5", note=STAYS)(partial(line, mood="black hole", seconds=(0.5, 5.0)))


@row("link-delayed", "every byte takes up to a second longer", "D3 D5")
def delayed(stage: Stage) -> None:
    stage.up("alpha", "beta", bus=BUS)
    connection = read_connection(stage.root)
    router, xpub = Proxy(connection.router), Proxy(connection.xpub)
    stage.callback(router.close)
    stage.callback(xpub.close)
    router.delay, xpub.delay = stage.chance.uniform(0.05, 1.0), stage.chance.uniform(0.05, 1.0)
    stage.follower(router=router.address, xpub=xpub.address)
    trainer = stage.train("--router", router.address)
    stage.moment(trainer, 2_000)
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


@row("frames", "messages are repeated and swapped, fan-out frames also dropped", "D3 D5")
def frames(stage: Stage) -> None:
    stage.up("alpha", "beta", bus=BUS)
    connection = read_connection(stage.root)
    relay = Relay(connection.router, connection.xpub, stage.chance)
    stage.callback(relay.close)
    stage.follower(router=relay.router, xpub=relay.xpub)
    trainer = stage.train("--router", relay.router)
    wait_for(lambda: relay.meddled > 100, PATIENCE, what="the relay to meddle")
    stage.moment(trainer)
    relay.honest.set()
    stage.mended()
    stage.recovered()
    stage.moment(trainer)
