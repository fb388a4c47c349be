"""What the journal has of an examination that was begun or done before."""

from __future__ import annotations

from trainbus.bus import events
from trainbus.hookspecs import Context


async def published_samples(context: Context, run: str, checkpoint: str, dataset: str, *, after: int) -> list[events.Sample]:
    """The answers of a checkpoint to a set. ``after``: the offset of the event that announced the checkpoint."""
    found = [event async for event in context.aquery(kinds=["sample"], runs=[run], after=after) if isinstance(event, events.Sample)]
    return [sample for sample in found if sample.checkpoint == checkpoint and sample.dataset == dataset]


async def results(context: Context, run: str, checkpoint: str, *, after: int) -> tuple[set[str], bool]:
    """The sets of which the checkpoint's result is there, and whether the checkpoint was deleted since."""
    examined, gone = set(), False
    async for event in context.aquery(kinds=["eval", "checkpoint"], runs=[run], after=after):
        if isinstance(event, events.Eval) and event.checkpoint == checkpoint:
            examined.add(event.dataset)
        elif isinstance(event, events.Checkpoint) and event.id == checkpoint:
            gone = event.state == "deleted"
    return examined, gone
