"""The hooks of the follow plugin: looks at files by the clock, publishes what is new in them."""

from __future__ import annotations

import asyncio
import glob
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from trainbus.bus import events
from trainbus.errors import ConfigError, TrainbusError
from trainbus.hookspecs import Context, hookimpl
from trainbus.plugins.follow.config import FileConfig, FollowConfig
from trainbus.plugins.follow.watched import Memory, Watched
from trainbus.sources.patterns import BUILT_IN, Pattern, chosen, own_pattern

STATE_PREFIX = "run/"
MAX_RUNS = 1000
"""Logs that are watched at once; a pattern that fits more is a mistake."""
MARK_SECONDS = 60.0
"""Seconds between two moves of the mark, which bound what a restart has to compare."""
FLUSH_SECONDS = 10.0


class FollowStats(Struct, frozen=True, kw_only=True):
    """Counts since this process began; ``unreadable`` logs are a problem now."""

    watched: int
    published: int
    bad_lines: int
    unreadable: int


class FollowPlugin:
    """Publishes for those that don't. Reading is polling: a look at each file every interval, nothing is held open between."""

    def __init__(self) -> None:
        self._patterns: list[tuple[Pattern, ...]] = []
        self._watched: dict[Path, Watched] = {}
        self._grown: dict[str, float] = {}
        self._marked: dict[str, float] = {}
        self._published = 0
        self._flushed = False
        self._full = False

    @hookimpl
    def config_schema(self) -> type[msgspec.Struct]:
        """``[plugin.follow]``."""
        return FollowConfig

    @hookimpl
    def start(self, context: Context) -> None:
        """Check what no schema can: patterns, and runs that would be two logs'.

        Raises:
            ConfigError: Names the table and what is wrong with it.
        """
        config: FollowConfig = context.config
        if not config.files:
            hint = 'For example: [[plugin.follow.files]] with path = "~/runs/train.log".'
            raise ConfigError("plugin.follow has nothing to follow.", hint=hint, key="plugin.follow.files")
        runs: set[str] = set()
        for number, one in enumerate(config.files):
            key = f"plugin.follow.files[{number}]"
            self._patterns.append(_patterns(one, key))
            if one.run and (one.run in runs or glob.has_magic(one.path)):
                problem = f"{key}.run: {one.run!r} would be the run of several logs."
                raise ConfigError(problem, hint="Leave it out: each path gets a run of its own.", key=f"{key}.run", found=one.run)
            runs.add(one.run)

    @hookimpl
    async def every(self, context: Context) -> float:
        """Look at every log."""
        self._find(context)
        # What was published must be in the journal before more is read: the logs wait where they are, and no spool fills.
        if not self._flushed and not await context.flush(FLUSH_SECONDS):
            return float(context.config.interval)
        more = False
        for watched in list(self._watched.values()):
            try:
                more |= await self._look(watched, context)
            except TrainbusError as error:  # no broker: nothing has been read
                context.logger.warning("%s can't be compared with the journal yet: %s", watched.run, error.problem)
        self._flushed = await context.flush(FLUSH_SECONDS)
        return 0.0 if more and self._flushed else context.config.interval

    @hookimpl
    def on_command(self, event: events.Command, context: Context) -> None:
        """Nobody can reach a training through its log: say so, rather than let people wait."""
        if any(watched.run == event.run for watched in self._watched.values()):
            reason = "the run is watched by its log: its training does not listen"
            context.publish(events.CommandResult(run=event.run, command=event.id, verb=event.verb, state="refused", reason=reason))

    def stats(self) -> FollowStats:
        """Counts."""
        every = self._watched.values()
        return FollowStats(
            watched=len(every),
            published=self._published,
            bad_lines=sum(one.memory.place.bad for one in every),
            unreadable=sum(bool(one.problem) for one in every),
        )

    def _find(self, context: Context) -> None:
        """Logs that have come; one that goes is still watched: it may come back."""
        for one, patterns in zip(context.config.files, self._patterns, strict=True):
            path = Path(one.path).expanduser().absolute()
            # Path.glob takes no pattern that begins at the root.
            found = sorted(map(Path, glob.glob(str(path)))) if glob.has_magic(one.path) else [path]  # noqa: PTH207
            for log in found:
                if log in self._watched:
                    continue
                if len(self._watched) >= MAX_RUNS:
                    if not self._full:
                        context.logger.error("%s fits more than %d logs: the others are not watched", one.path, MAX_RUNS)
                    self._full = True
                    return
                watched = Watched(log, None if one.format == "auto" else one.format, one.run, patterns, Memory())
                watched.memory = _remembered(context, watched.run)
                self._watched[log] = watched

    async def _look(self, watched: Watched, context: Context) -> bool:
        """Publish what is new in one log; whether there may be more."""
        now = time.monotonic()
        if not watched.recovered:
            await watched.recover(context)
            self._marked[watched.run] = now
        try:
            found = await asyncio.to_thread(watched.look)
        except (OSError, TrainbusError) as error:
            self._unreadable(watched, str(error.problem if isinstance(error, TrainbusError) else error), context)
            return False
        self._unreadable(watched, "", context)
        if found:
            self._grown[watched.run] = now
        elif context.config.lost_after and now - self._grown.setdefault(watched.run, now) > context.config.lost_after:
            found = watched.lost(context.config.lost_after)
        # No await between these: a hook that is cancelled has either published and moved the place, or neither.
        for event in found:
            context.publish(event)
        self._published += len(found)
        self._remember(watched, context)
        if now - self._marked.get(watched.run, now) > MARK_SECONDS and await context.flush(FLUSH_SECONDS):
            self._marked[watched.run] = now
            await watched.move_mark(context)
            self._remember(watched, context)
        return bool(found)

    def _remember(self, watched: Watched, context: Context) -> None:
        memory = msgspec.to_builtins(watched.memory)
        if context.state.get(STATE_PREFIX + watched.run) != memory:
            context.state[STATE_PREFIX + watched.run] = memory

    def _unreadable(self, watched: Watched, problem: str, context: Context) -> None:
        """Tell once that a log can't be read, and once that it can again."""
        if bool(problem) != bool(watched.problem):
            context.publish(
                events.Alert(
                    run=watched.run,
                    id=f"follow_unreadable:{watched.run}",
                    rule="follow_unreadable",
                    category="plugin",
                    severity="warning",
                    state="raised" if problem else "cleared",
                    message=f"{watched.path} can't be read: {problem}" if problem else f"{watched.path} can be read again.",
                    advice="Is it what plugin.follow.files takes it for, and may this user read it?" if problem else "",
                    plugin=context.name,
                )
            )
        watched.problem = problem


def _patterns(one: FileConfig, key: str) -> tuple[Pattern, ...]:
    """The patterns of a table, its own first.

    Raises:
        ConfigError: One can't work, or is unknown.
    """
    try:
        own = [own_pattern(name, expression) for name, expression in one.own.items()]
        return (*own, *(chosen(one.patterns) if one.patterns else BUILT_IN))
    except ConfigError as error:
        raise ConfigError(f"{key} ({one.path}): {error.problem}", hint=error.hint, **{**error.facts, "key": key}) from error


def _remembered(context: Context, run: str) -> Memory:
    try:
        return msgspec.convert(context.state.get(STATE_PREFIX + run, {}), Memory)
    except msgspec.ValidationError as error:
        context.logger.warning("how far %s was read can't be read: it is compared with the journal from the beginning (%s)", run, error)
        return Memory()
