"""The verdicts of the checkpoint before, so that each result says whether it differs from it by more than noise."""

from __future__ import annotations

from trainbus.hookspecs import Context
from trainbus.plugins.inference.journal import published_samples
from trainbus.plugins.inference.pending import Waiting

LAST = "last"
LASTS_KEPT = 200
"""Pairs of run and set of which the last examined checkpoint is remembered: the newest."""


class Predecessors:
    """Remembers the last examined checkpoint of each run and set; its verdicts are read back from the journal after a restart."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._verdicts: dict[str, dict[str, bool]] = {}

    async def before(self, entry: Waiting, dataset: str) -> tuple[str, dict[str, bool]]:
        """The id and verdicts of the checkpoint that was examined before this one; empty when there is none."""
        key = _key(entry.run, dataset)
        last = self._context.state.get(LAST, {}).get(key)
        if last is None:
            return "", {}
        if key not in self._verdicts:
            self._verdicts[key] = await self._read(entry.run, dataset, last["checkpoint"], last["offset"])
        return last["checkpoint"], self._verdicts[key]

    def keep(self, entry: Waiting, dataset: str, verdicts: dict[str, bool]) -> None:
        """This one was examined."""
        key = _key(entry.run, dataset)
        self._verdicts[key] = verdicts
        lasts = {name: last for name, last in self._context.state.get(LAST, {}).items() if name != key}
        lasts[key] = {"checkpoint": entry.id, "offset": entry.offset}
        self._context.state[LAST] = dict(list(lasts.items())[-LASTS_KEPT:])
        for name in self._verdicts.keys() - self._context.state[LAST].keys():
            del self._verdicts[name]

    async def _read(self, run: str, dataset: str, checkpoint: str, offset: int) -> dict[str, bool]:
        samples = await published_samples(self._context, run, checkpoint, dataset, after=offset)
        return {sample.example: sample.correct for sample in samples if sample.correct is not None}


def _key(run: str, dataset: str) -> str:
    return f"{run}\n{dataset}"
