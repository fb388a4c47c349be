"""Tells when a run processes far fewer tokens a second than it used to: a slow disk, a neighbour, a hot GPU."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trainbus import Context, hookimpl
from trainbus.bus.events import Alert, RunEnded, Step
from trainbus_throughput.rule import remember, slow


class Settings(msgspec.Struct, kw_only=True):
    """What may stand in [plugin.throughput]."""

    metric: Annotated[str, msgspec.Meta(description="The metric of a step that says how fast it is.")] = "tokens_per_second"
    fraction: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Below this part of the usual speed a step is slow.")] = 0.5
    steps: Annotated[int, msgspec.Meta(ge=1, description="Slow steps in a row until the alert.")] = 5


class Throughput:
    """One alert for each slow stretch, cleared when the run is back at its speed."""

    hook_api = 1

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """The settings, checked before anything else happens."""
        return Settings

    @hookimpl
    def on_step(self, event: Step, context: Context) -> None:
        """Compare the speed with those before. All that is remembered is in the state: a crash changes nothing."""
        speed = event.metrics.get(context.config.metric)
        if speed is None or event.rank != 0:
            return
        known: dict[str, Any] = context.state.get(event.run) or {"before": [], "slow": 0, "first": 0}
        before, count, first = known["before"], known["slow"], known["first"]
        if slow(before, speed, context.config.fraction):
            first = first if count else event.step
            count += 1
            if count == context.config.steps:
                context.publish(_alert(event, first, "raised", f"{speed:.0f} tokens a second for {count} steps: less than usual."))
        else:
            if count >= context.config.steps:
                context.publish(_alert(event, first, "cleared", f"Back at {speed:.0f} tokens a second."))
            count, before = 0, remember(before, speed)
        context.state[event.run] = {"before": before, "slow": count, "first": first}

    @hookimpl
    def on_run_ended(self, event: RunEnded, context: Context) -> None:
        """Forget the run, so that the state doesn't grow."""
        context.state.pop(event.run, None)


def _alert(event: Step, first: int, state: Any, message: str) -> Alert:
    advice = "Look at the machine: `trainbus status`." if state == "raised" else ""
    name = f"throughput:{event.run}:{first}"
    return Alert(id=name, rule="throughput", severity="warning", state=state, step=event.step, message=message, advice=advice)
