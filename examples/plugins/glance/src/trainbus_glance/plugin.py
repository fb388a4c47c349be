"""Panels for the dashboard: the learning rate, perplexity, and the newest checkpoints."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from trainbus import Context, Panel, hookimpl
from trainbus.bus.events import Eval, Metric

MAX_LOSS = 700.0
"""Beyond it, exp() overflows."""


class Settings(msgspec.Struct, kw_only=True):
    """What may stand in [plugin.glance]."""

    dataset: Annotated[str, msgspec.Meta(description="Only evaluations of this set; empty: of all.")] = ""


class Glance:
    """Two panels draw what is in the events already; the third draws a series that the plugin computes and publishes."""

    hook_api = 1

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """The settings, checked before anything else happens."""
        return Settings

    @hookimpl
    def web_panels(self) -> list[Panel]:
        """Drawn by the dashboard, without JavaScript. Fields are dotted paths into the event."""
        return [
            Panel(id="rate", title="Learning rate", kind="chart", events="step", fields=("metrics.learning_rate",)),
            Panel(id="perplexity", title="Perplexity", kind="chart", events="metric", fields=("value",)),
            Panel(id="checkpoints", title="Checkpoints", kind="table", events="checkpoint", fields=("step", "state", "bytes", "path")),
        ]

    @hookimpl
    def on_eval(self, event: Eval, context: Context) -> None:
        """Publish the perplexity of each evaluation. It depends on nothing but the event, so that a replay gives the same."""
        loss = event.metrics.get("loss", math.nan)
        if context.config.dataset in ("", event.dataset) and loss < MAX_LOSS:
            context.publish(Metric(name="perplexity", value=math.exp(loss), step=event.step))
