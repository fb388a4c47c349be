"""What the plugin knows and concludes: events in, alerts and requests out; no clock, no file, no process.

The same events give the same alerts, live and on replay. Requests to a training are made on fresh looks only: see `Watch.act`.
"""

from __future__ import annotations

from msgspec import Struct, field

from trainbus.bus.events import Alert, Checkpoint, Phase, RunEnded, RunStarted, Step, System
from trainbus.machine.training import Training
from trainbus.plugins.memory.actions import Ask, Danger, Incident, decide, sentence
from trainbus.plugins.memory.book import Book, Open
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.deaths import Death, Sighting, death_alert, ended, inquest, sight
from trainbus.plugins.memory.forecast import limits_of
from trainbus.plugins.memory.fragments import judge_fragments
from trainbus.plugins.memory.gauges import judge_gauges
from trainbus.plugins.memory.host import HostEnd, HostView, judge_host
from trainbus.plugins.memory.leaks import IDLE_PERCENT, duration, judge_idle_gpu, judge_run
from trainbus.plugins.memory.levels import limits
from trainbus.plugins.memory.runs import RunView

MAX_RUNS = 32
"""Trainings kept; those that ended longest ago go first."""
MAX_DEATHS = 10
RUN_KINDS = ("leak", "creep", "fragments", "idle", "save", "action")
"""First words of the keys of alerts that end with their training."""
CRASH = ("exec", "crash")
"""Plugin and rule of the alert by which `trainbus exec` tells of a crash."""
YOUNG_STEPS = 100
"""Steps after which a training is no longer young, and is looked at as seldom as its memory allows."""


class State(Struct):
    """All that the watch keeps, as it lies in the plugin's durable state."""

    trainings: dict[str, Training] = field(default_factory=dict)
    runs: dict[str, RunView] = field(default_factory=dict)
    host: HostView = field(default_factory=HostView)
    alerts: dict[str, Open] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    sightings: dict[str, Sighting] = field(default_factory=dict)
    deaths: dict[str, Death] = field(default_factory=dict)


class Died(Struct, frozen=True):
    """A training that is gone: its alert still wants the last minute of its memory."""

    run: str
    death: Death
    alert: Alert


class Watch:
    """Follows one machine.

    Args:
        host: Its name; events of others are left alone.
        config: Levels and policy.
        state: From before.
    """

    def __init__(self, host: str, config: MemoryConfig, state: State | None = None) -> None:
        self.host = host
        self.state = state or State()
        self._config = config
        self._book = Book(self.state.alerts)
        self._dangers: dict[str, Danger] = {}

    def on_run_started(self, event: RunStarted) -> None:
        """A training began here, or went on in a new process."""
        if event.host != self.host or event.pid <= 0:
            return
        state = self.state
        state.trainings[event.run] = Training(event.run, event.pid, event.time, event.name)
        view = state.runs.pop(event.run, None) or RunView(run=event.run)
        view.name, view.pid, view.crash = event.name, event.pid, ""
        view.on_resumed(event.time)
        state.runs[event.run] = view
        state.deaths.pop(event.run, None)
        for run in [run for run in state.runs if run not in state.trainings][: max(0, len(state.runs) - MAX_RUNS)]:
            del state.runs[run]

    def on_run_ended(self, event: RunEnded) -> list[Alert]:
        """A training ended; says so when it was memory. One that failed is looked at once more, for what the kernel counted."""
        state, run = self.state, event.run
        view = state.runs.get(run)
        if view is None:
            return []
        known = state.deaths.get(run)
        if event.outcome in ("completed", "stopped"):
            state.trainings.pop(run, None)
            state.sightings.pop(run, None)
            state.deaths.pop(run, None)
            return []
        death = ended(event, known, self.host)
        if death is None:
            return []
        self._keep_death(run, death)
        return [self._death_alert(view, death, event.time, updated=known is not None)]

    def on_alert(self, event: Alert) -> list[Alert]:
        """`trainbus exec` told of a crash: a death that was told here before is from now on information beside that."""
        view = self.state.runs.get(event.run)
        if view is None or (event.plugin, event.rule) != CRASH or event.state == "cleared" or view.crash == event.id:
            return []
        view.crash = event.id
        death = self.state.deaths.get(event.run)
        return [] if death is None else [self._death_alert(view, death, event.time, updated=True)]

    def on_step(self, event: Step) -> None:
        """A step ended."""
        view = self.state.runs.get(event.run)
        if view is not None and view.on_step(event) and view.gpu_percent is not None:
            view.gpu_low = view.gpu_low + 1 if view.gpu_percent < IDLE_PERCENT else 0

    def on_phase(self, event: Phase) -> None:
        """A phase began or ended."""
        view = self.state.runs.get(event.run)
        if view is not None:
            view.on_phase(event)

    def on_checkpoint(self, event: Checkpoint) -> None:
        """A checkpoint changed state."""
        view = self.state.runs.get(event.run)
        if view is not None and event.host in ("", self.host):
            view.on_checkpoint(event)

    def on_system(self, event: System) -> tuple[list[Alert], list[Died]]:
        """Judge a look: alerts to publish, and trainings that are gone."""
        state, book = self.state, self._book
        judge_gauges(event, self._config, book)
        self._dangers = {}
        groups = {process.run: process.group for process in event.processes}
        found = list(limits(event))
        for process in event.processes:
            view = state.runs.get(process.run)
            if view is None:
                continue
            state.sightings[process.run] = sight(event, process, state.sightings.get(process.run))
            mine = limits_of(found, process.group, process.pid)
            new = view.on_look(event, process, mine)
            if not new and not view.leaking:
                self._dangers[process.run] = Danger(None, max((limit.percent for limit in mine), default=0.0), "")
                continue
            end = judge_run(event, view, process.group, self._config, book)
            view.leaking = bool(book.keys(f"leak {process.run} "))
            judge_idle_gpu(event, view, book)
            judge_fragments(event, process, view, mine, self._config, book)
            why = "" if end is None else f"at {end.slope / 1e6:.2f} MB a step the {end.what} ends about step {end.step:.0f}"
            seconds = None if end is None else end.seconds_low
            self._dangers[process.run] = Danger(seconds, max((limit.percent for limit in mine), default=0.0), why)
        self._everybody(judge_host(event, state.host, [view for run, view in state.runs.items() if run in groups], self._config, book))
        died = [one for run in event.gone if (one := self._gone(event, run)) is not None]
        for key in book.keys(""):
            kind, _, rest = key.partition(" ")
            if kind in RUN_KINDS and rest.partition(" ")[0] not in state.trainings:
                book.clear(event, key, "The training has ended.")
        return book.take(), died

    def act(self, event: System) -> list[tuple[Ask, Alert]]:
        """What to ask of the trainings after a look that was just taken, with the alert that says so (also in a dry run)."""
        asked = []
        for run, danger in self._dangers.items():
            view = self.state.runs[run]
            incident = self.state.incidents.setdefault(run, Incident())
            if danger.percent >= self._config.act_percent and not danger.why:
                danger = Danger(danger.seconds, danger.percent, f"{danger.percent:.0f} % of its memory is in use")
            for ask in decide(view, danger, incident, event.time, self._config):
                name = view.name or run
                self._book.tell(
                    event,
                    f"action {run}",
                    "memory_action",
                    "info" if self._config.dry_run else "warning",
                    sentence(ask, name, self._config.dry_run),
                    run=run,
                    step=view.step,
                    evidence={
                        "verb": ask.verb,
                        "dry_run": self._config.dry_run,
                        "save_seconds": view.save_seconds(self._config.save_seconds),
                    },
                    value=danger.percent,
                    news=True,
                )
                asked.append((ask, self._book.take()[-1]))
            if not incident.asked:
                del self.state.incidents[run]
        return asked

    def step_seconds(self) -> float | None:
        """The shortest step of the trainings that are young; None when none is."""
        young = (self.state.runs[run] for run in self.state.trainings if run in self.state.runs)
        found = [view.step_seconds for view in young if view.steps_seen < YOUNG_STEPS and view.step_seconds is not None]
        return min(found, default=None)

    def cleared(self, event: System) -> list[Alert]:
        """Alerts about actions end when nothing is asked for any more."""
        for key in self._book.keys("action "):
            if key.removeprefix("action ") not in self.state.incidents:
                self._book.clear(event, key, "The end of its memory is out of sight.")
        return self._book.take()

    def _everybody(self, end: HostEnd | None) -> None:
        """Memory that ends for everybody on the machine."""
        if end is None:
            return
        for run, danger in self._dangers.items():
            if danger.seconds is None or end.seconds < danger.seconds:
                why = f"the memory of the machine ends in about {duration(end.seconds)}"
                self._dangers[run] = Danger(end.seconds, danger.percent, why)

    def _gone(self, event: System, run: str) -> Died | None:
        state = self.state
        training, seen, view = state.trainings.pop(run, None), state.sightings.pop(run, None), state.runs.get(run)
        state.incidents.pop(run, None)
        if training is None or view is None:
            return None
        known = state.deaths.get(run)
        death = inquest(event, run, seen or Sighting(pid=training.pid))
        if known is not None:  # its end was told before this look
            death = Death(
                known.id,
                death.verdict if death.verdict == "kernel" else known.verdict,
                [*known.proof, *death.proof],
                known.time,
                training.pid,
            )
        self._keep_death(run, death)
        return Died(run, death, self._death_alert(view, death, event.time, updated=known is not None))

    def _death_alert(self, view: RunView, death: Death, time: int, *, updated: bool) -> Alert:
        return death_alert(view.run, death, step=view.step, name=view.name, host=self.host, time=time, updated=updated, incident=view.crash)

    def _keep_death(self, run: str, death: Death) -> None:
        self.state.deaths.pop(run, None)
        self.state.deaths[run] = death
        for old in list(self.state.deaths)[:-MAX_DEATHS]:
            del self.state.deaths[old]
