"""What is done about an alert: policies, off by default. Which action an alert calls for is decided here, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from trainbus.bus.events import Alert, CommandResult
from trainbus.plugins.anomaly.config import ActionConfig
from trainbus.plugins.anomaly.memory import RunMemory

NO_RATE = "the learning rate is not known"


class Decision(Struct, frozen=True, kw_only=True):
    """One action. ``refused`` says why it can't be taken."""

    verb: str
    reason: str
    arguments: dict[str, Any] = {}
    dry_run: bool = False
    refused: str = ""

    def told(self) -> str:
        """One sentence for the alert."""
        what = self.verb + "".join(f" {name} = {value:.3g}" for name, value in self.arguments.items())
        if self.refused:
            return f"Not done: {what}: {self.refused}."
        return f"Dry run: would have asked for: {what}." if self.dry_run else f"Asked for: {what}."

    def event(self, alert: Alert) -> CommandResult | None:
        """What tells of an action that is not taken; of one that is taken the command itself does. Nothing waits for this command."""
        if not self.dry_run and not self.refused:
            return None
        told = {"alert": alert.id, "rule": alert.rule, "dry_run": self.dry_run, "arguments": self.arguments}
        command = f"{'dry-run' if self.dry_run else 'not-sent'}:{self.verb}:{alert.id}"
        return CommandResult(
            run=alert.run, time=alert.time, command=command, verb=self.verb, state="refused", reason=self.told(), result=told
        )


def decide(policies: Sequence[ActionConfig], alert: Alert, memory: RunMemory) -> Iterator[Decision]:
    """The actions that an alert calls for now; each is noted in the memory, so that a repeat of the alert decides nothing twice.

    An action is taken once for an incident, and by its policy once a run or at most every ``pause`` steps.
    """
    if alert.state == "cleared" or not alert.run:
        return
    for number, policy in enumerate(policies):
        if alert.severity not in policy.severities or (policy.rules and not set(policy.rules) & set(alert.evidence["rules"])):
            continue
        if policy.min_score and not _scored(policy, alert):
            continue
        step = memory.last_step if alert.step is None else max(alert.step, memory.last_step)
        key = f"{number}:{policy.do}"
        taken = memory.acted.get(key)
        if f"{key}:{alert.id}" in memory.acted or (taken is not None and (policy.once or step < taken + policy.pause)):
            continue
        memory.acted[key] = step
        for old in [one for one in memory.acted if one.startswith(f"{key}:")]:
            del memory.acted[old]
        memory.acted[f"{key}:{alert.id}"] = step
        yield _decision(policy, alert, memory)


def _scored(policy: ActionConfig, alert: Alert) -> bool:
    found = [one for one in alert.evidence["findings"] if not policy.rules or one["rule"] in policy.rules]
    return any(one["score"] >= policy.min_score for one in found)


def _decision(policy: ActionConfig, alert: Alert, memory: RunMemory) -> Decision:
    reason = f"{alert.rule}: {alert.message}"
    if policy.do != "set_learning_rate":
        return Decision(verb=policy.do, reason=reason, dry_run=policy.dry_run)
    rate = memory.learning_rate
    if rate is None or not rate > 0:
        return Decision(verb="set", reason=reason, dry_run=policy.dry_run, refused=NO_RATE)
    return Decision(verb="set", reason=reason, dry_run=policy.dry_run, arguments={"learning_rate": rate * policy.factor})
