"""A training that never ran: its steps, phases, checkpoints and the looks at its memory, in order, from a seed."""

import math
import random

from trainbus.bus.events import Checkpoint, Memory, MemoryGroup, Phase, Process, RunStarted, Step, System, Worker
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.levels import limits
from trainbus.plugins.memory.pace import Pace
from trainbus.plugins.memory.watch import Watch

GB = 10**9
MB = 10**6
HOST = "h"
START = 1_700_000_000 * 10**9


class Story:
    """Numbers in MB and seconds."""

    def __init__(self, seed=0, *, steps=5_000, step=0.1, base=2_000, total=16_000, limit=None, noise=20, warm=300, warm_steps=40, leak=0.0,
                 leak_from=0, eval_every=500, eval_seconds=8, eval_peak=900, eval_leaves=0, eval_first_leaves=150, save_every=1_000,
                 save_seconds=3, save_peak=200, drift=0.0, worker=False, total_steps=True, config=None):  # fmt: skip
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})
        self.random = random.Random(seed)
        self.config = config or MemoryConfig()
        self.watch = Watch(HOST, self.config)
        self.pace = Pace(self.config.interval, self.config.fast_interval)
        self.now, self.next_look = 0.0, 0.0
        self.at, self.extra, self.left, self.creep = 0, 0.0, 0.0, 0.0
        self.alerts, self.asked, self.seen, self.looks = [], [], [], 0
        self.killed = None

    def value(self):
        """Megabytes that can't be reclaimed, now."""
        leaked = self.leak * max(0, self.at - self.leak_from)
        warm = self.warm * (1 - math.exp(-self.at / self.warm_steps))
        self.creep += self.random.gauss(0, self.drift)
        wave = self.noise * abs(self.random.gauss(0, 1))
        return self.base + warm + leaked + self.left + self.extra + self.creep + wave

    def feed(self, event):
        event.run, event.time = "r", START + int(self.now * 1e9)
        self.seen.append(event)
        getattr(self.watch, f"on_{event.kind}")(event)

    def look(self):
        """One look, judged and acted on as the plugin does."""
        used = self.value()
        held = int(used * MB)
        leaked = int(self.leak * max(0, self.at - self.leak_from) * MB) if self.worker else 0
        group = [MemoryGroup(path="/g", limit=self.limit * MB, used=held, oom_kills=0)] if self.limit else []
        workers = [Worker(pid=8, name="pt_data_worker", role="dataloader", rss=100 * MB + leaked, anon=100 * MB + leaked)]
        process = Process(pid=7, run="r", name="tuning", rss=held + 300 * MB, anon=held, group="/g" if self.limit else "", workers=workers)
        memory = Memory(total=self.total * MB, used=1_000 * MB + held, available=self.total * MB - held - 1_000 * MB)
        event = System(host=HOST, memory=memory, processes=[process], groups=group, time=START + int(self.now * 1e9))
        self.seen.append(event)
        self.looks += 1
        alerts, _ = self.watch.on_system(event)
        for ask, alert in self.watch.act(event):
            self.asked.append((self.at, ask.verb))
            alerts.append(alert)
        self.alerts += [(self.at, alert) for alert in [*alerts, *self.watch.cleared(event)]]
        return self.pace.next(limits(event), self.now, self.watch.step_seconds())

    def pass_time(self, seconds):
        end = self.now + seconds
        while self.next_look <= end:
            self.now = max(self.now, self.next_look)
            self.next_look = self.now + self.look()
        self.now = end

    def phase(self, name, seconds, peak, during=lambda: None):
        self.feed(Phase(name=name, state="started"))
        for tenth in range(10):
            self.extra = peak * min(1.0, (tenth + 1) / 6)
            self.pass_time(seconds / 10)
        during()
        self.extra = 0.0
        self.feed(Phase(name=name, state="ended", duration=seconds))

    def save(self):
        self.feed(Checkpoint(id=f"c{self.at}", step=self.at, state="writing", path=f"/out/checkpoint-{self.at}", host=HOST))
        self.phase("save", self.save_seconds, self.save_peak)
        self.feed(Checkpoint(id=f"c{self.at}", step=self.at, state="complete", path=f"/out/checkpoint-{self.at}", host=HOST, bytes=GB))

    def run(self, obey=False):
        """To its end, or to the kernel's kill; with ``obey`` it saves when it is asked to."""
        self.feed(RunStarted(name="tuning", host=HOST, pid=7))
        self.feed(Phase(name="train", state="started"))
        for number in range(1, self.steps + 1):
            self.pass_time(self.step * self.random.uniform(0.9, 1.1))
            self.at = number
            if self.value() > (self.limit or self.total - 1_000):
                self.killed = number
                break
            self.feed(Step(step=number, total_steps=self.steps if self.total_steps else None))
            if number % self.eval_every == 0:
                self.phase("evaluate", self.eval_seconds, self.eval_peak)
                self.left += self.eval_leaves + (self.eval_first_leaves if number == self.eval_every else 0)
            if number % self.save_every == 0 or (obey and any(verb == "save" for _, verb in self.asked[len(self.obeyed) :])):
                self.obeyed = list(self.asked)
                self.save()
        return self

    obeyed = ()

    def said(self, rule, state=None):
        return [(step, alert) for step, alert in self.alerts if alert.rule == rule and state in (None, alert.state)]
