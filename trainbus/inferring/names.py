"""What people call a model: a path, a checkpoint of a run by step, ``latest`` or ``best``, a hub name. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from trainbus.errors import RefusedError
from trainbus.plugins.retention.keeping import ranked
from trainbus.plugins.retention.policies import Best, BestConfig
from trainbus.plugins.retention.records import Record

LATEST, BEST = "latest", "best"
WHICH = re.compile(r"latest|best(:.+)?|\d+")
HIGHER_IS_BETTER = re.compile(r"accuracy|score|reward|match|f1|bleu|rouge|pass", re.IGNORECASE)
"""As the anomaly detector's rule for the best value takes it."""
TRAINING_LOSS = "loss"
FALLBACKS = (BestConfig(metric="eval_loss"), BestConfig(metric=TRAINING_LOSS))
"""What ``best`` means where nothing that retention is told to keep the best of was measured."""
NEWEST_SHOWN = 5


class Name(Struct, frozen=True):
    """A name taken apart. ``target`` is a run or a directory, empty for the run that is meant anyway; ``which`` a checkpoint of it."""

    target: str = ""
    which: str = LATEST


def parse(text: str) -> Name:
    """Take apart ``latest``, ``best``, ``best:METRIC``, ``STEP``, ``RUN``, ``RUN:WHICH`` or ``DIRECTORY:WHICH``."""
    if WHICH.fullmatch(text):
        return Name("", text)
    for found in re.finditer(":", text):
        target, which = text[: found.start()], text[found.end() :]
        if target and WHICH.fullmatch(which):
            return Name(target, which)
    return Name(text, LATEST)


def choose(records: Sequence[Record], which: str, policies: Sequence[BestConfig], *, of: str) -> tuple[Record, str]:
    """The checkpoint that is meant, and why it is that one (empty for a step).

    Args:
        records: Checkpoints by step.
        which: ``latest``, ``best``, ``best:METRIC`` or a step.
        policies: What retention keeps the best of, the first counts first.
        of: What messages call the run or directory.

    Raises:
        RefusedError: There is none.
    """
    newest = ", ".join(str(record.step) for record in records[-NEWEST_SHOWN:])
    hint = f"Its newest steps: {newest}." if records else "`trainbus models list` shows what there is."
    whole = [record for record in records if not record.faults]
    if which.isdigit():
        matching = [record for record in records if record.step == int(which)]
        if not matching:
            raise RefusedError(f"{of} has no checkpoint of step {which}.", hint=hint, code="unknown", found=which)
        return matching[-1], ""
    if not whole:
        raise RefusedError(f"{of} has no whole checkpoint.", hint=hint, code="unknown", found=which)
    if which == LATEST:
        return whole[-1], "the newest"
    metric = which.partition(":")[2]
    for policy in policies_for(metric, policies):
        if found := ranked(policy, whole, 1):
            return found[0], f"the best by {policy.metric} ({found[0].metrics[policy.metric]:.4g})"
    measured = sorted({name for record in whole for name in record.metrics})
    problem = f"No checkpoint of {of} was measured by {metric or ' or '.join(policy.metric for policy in policies_for('', policies))}."
    raise RefusedError(
        problem, hint=f"Metrics that are known: {', '.join(measured) or 'none'}.", code="unknown", found=which, allowed=measured
    )


def policies_for(metric: str, policies: Sequence[BestConfig]) -> Sequence[Best | BestConfig]:
    """By what the best is chosen: for a named metric in the direction that retention is told, else by what its name says.

    Without a name by what retention keeps the best of, in its order; but the loss of training says least of a model and comes last.
    """
    if not metric:
        told = {policy.metric: policy for policy in (*policies, *FALLBACKS)}
        return sorted(told.values(), key=lambda policy: policy.metric == TRAINING_LOSS)
    known = [policy for policy in policies if policy.metric == metric]
    return known or [BestConfig(metric=metric, direction="max" if HIGHER_IS_BETTER.search(metric) else "min")]
