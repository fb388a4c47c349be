"""The handlers of the API, one for each address in `trainbus.plugins.web.routes`. What they say is made by the store."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web

from trainbus.errors import TrainbusError
from trainbus.hookspecs import Context
from trainbus.plugins.web import prometheus, security
from trainbus.plugins.web.answering import Fields, answer, body, number, problem, unknown_run
from trainbus.plugins.web.answers import confidence
from trainbus.plugins.web.config import WebConfig
from trainbus.plugins.web.dropping import Dropping
from trainbus.plugins.web.encoding import event_json
from trainbus.plugins.web.exporting import as_csv, exported
from trainbus.plugins.web.intake import Intake
from trainbus.plugins.web.layouts import Layouts
from trainbus.plugins.web.machine_api import gpu_stats, memory_stats
from trainbus.plugins.web.routes import described
from trainbus.plugins.web.run_view import RunView, shown
from trainbus.plugins.web.searching import Query, Searcher, words_of
from trainbus.plugins.web.steering import RefusedRequest
from trainbus.plugins.web.stream import EventStream

MAX_STREAMS = 100
"""Open event streams; more are refused with 503."""

MAX_POINTS, DEFAULT_POINTS = 10_000, 1_000
MAX_METRICS = 50
"""Metrics of one request for series."""

DEFAULT_LIMIT, MAX_LIMIT = 200, 1_000
"""Entries of a list."""


class Api:
    """Answers from the store.

    Args:
        dropping: Whether files may be dropped onto the page.
        context: For the history behind the event stream.
    """

    def __init__(self, config: WebConfig, intake: Intake, dropping: Dropping, context: Context) -> None:
        self._config = config
        self._dropping = dropping
        self.intake = intake
        self.context = context
        self.streams: set[asyncio.Task[object]] = set()
        self._searcher = Searcher(context)
        self._layouts = Layouts(context.directory)
        self._openapi = msgspec.json.encode(described())

    # --- the server itself ---------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.Response:
        """How much is held."""
        store, feed = self.intake.store.stats(), self.intake.feed.stats()
        ready = self.intake.loaded.is_set()
        fields = {"ready": ready, "position": store.position, "runs": store.runs, "points": store.points, "streams": feed.listeners}
        return answer(request, fields | {"dropped_streams": feed.dropped, "problem": self.intake.problem})

    async def readyz(self, request: web.Request) -> web.Response:
        """Whether the history is read."""
        ready = self.intake.loaded.is_set()
        return answer(request, {"ready": ready, "problem": self.intake.problem}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """For Prometheus."""
        return body(request, prometheus.exposition(self.intake), prometheus.CONTENT_TYPE)

    async def openapi(self, request: web.Request) -> web.Response:
        """The description of all this."""
        return body(request, self._openapi, "application/json")

    # --- runs ----------------------------------------------------------------------------------------

    async def state(self, request: web.Request) -> web.Response:
        """All that a page needs at first."""
        now, store = time.time_ns(), self.intake.store
        runs = store.summaries(now)
        chosen = request.query.get("run") or (runs[0]["run"] if runs else "")
        found = store.heading(chosen, now) if request.query.get("lists") == "no" else store.detail(chosen, now)
        role = security.role(self._config, request.headers, request.cookies)
        head: Fields = {
            "loading": not self.intake.loaded.is_set(),
            "problem": self.intake.problem,
            "role": role,
            "uploads": self._dropping.offered() if role == "operator" else None,
            "runs": runs,
            "run": found,
        }
        return answer(request, store.shared(now) | head)

    async def runs(self, request: web.Request) -> web.Response:
        """All runs."""
        return answer(request, {"runs": self.intake.store.summaries(time.time_ns())})

    async def run(self, request: web.Request) -> web.Response:
        """One run."""
        detail = self.intake.store.detail(request.match_info["run"], time.time_ns())
        return answer(request, detail) if detail else unknown_run()

    async def series(self, request: web.Request) -> web.Response:
        """Metrics of a run."""
        metrics = request.query.getall("metric", [])
        if not metrics or len(metrics) > MAX_METRICS:
            return problem(400, f"Name 1 to {MAX_METRICS} metrics, as in ?metric=loss&metric=grad_norm.")
        points = min(MAX_POINTS, max(4, number(request, "points") or DEFAULT_POINTS))
        first, last = number(request, "from"), number(request, "to")
        series = self.intake.store.series(request.match_info["run"], metrics, points, first, last)
        if series is None:
            return unknown_run()
        # All of it is finite and short by itself: looking at each of many thousand numbers would be most of the work.
        found = {"run": request.match_info["run"], "offset": self.intake.store.position, "series": series}
        return body(request, msgspec.json.encode(found), "application/json")

    async def run_list(self, request: web.Request) -> web.Response:
        """One list of a run."""
        view = self.intake.store.runs.get(request.match_info["run"])
        if view is None:
            return unknown_run()
        name = request.match_info["list"]
        entries = view.listed(name, time.time_ns())
        if entries is None:
            return problem(404, "There is no such list.")
        found = _searched(entries, request.query.get("search", ""))
        limit = _limit(request)
        return answer(request, {"entries": found[:limit], "found": len(found), "all": len(entries), "version": view.versions.get(name, 0)})

    async def checkpoints(self, request: web.Request) -> web.Response:
        """What is to become of the checkpoints of a run."""
        found = self.intake.store.checkpoints(request.match_info["run"])
        return answer(request, found) if found else unknown_run()

    async def export(self, request: web.Request) -> web.Response:
        """Series as a file."""
        view = self.intake.store.runs.get(request.match_info["run"])
        if view is None:
            return unknown_run()
        metrics = request.query.getall("metric", [])
        if len(metrics) > MAX_METRICS:
            return problem(400, f"At most {MAX_METRICS} metrics at once.")
        table = exported(view, metrics, self.intake.store.memory.get(view.host))
        if request.query.get("format", "csv") == "json":
            return body(request, msgspec.json.encode({"run": view.run, "series": table}), "application/json", name=f"{view.run}.json")
        return body(request, as_csv(table), "text/csv; charset=utf-8", name=f"{view.run}.csv")

    async def step_times(self, request: web.Request) -> web.Response:
        """How long the steps of a run took."""
        view = self.intake.store.runs.get(request.match_info["run"])
        return answer(request, view.step_times.stats()) if view else unknown_run()

    async def panel(self, request: web.Request) -> web.Response:
        """Rows of a declared panel."""
        rows = self.intake.store.panels.rows(f"{request.match_info['plugin']}/{request.match_info['panel']}", request.query.get("run", ""))
        return problem(404, "No plugin declares such a panel.") if rows is None else answer(request, {"rows": rows})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The event stream."""
        task = asyncio.current_task()
        if task is None or len(self.streams) >= MAX_STREAMS:
            return problem(503, f"{MAX_STREAMS} streams are open already.")
        after = number(request, "after")
        last_id = request.headers.get("Last-Event-ID", "")
        if last_id.isascii() and last_id.isdigit() and len(last_id) < 19:
            after = int(last_id)
        stream = EventStream(request, self.intake, self.context, after)
        stream.response.headers.update(security.HEADERS)
        self.streams.add(task)
        try:
            return await stream.run()
        finally:
            self.streams.discard(task)

    async def history(self, request: web.Request) -> web.Response:
        """Events of the journal, searched."""
        before = number(request, "before")
        query = Query(
            words=words_of(request.query.get("search", "")),
            kinds=tuple(request.query.getall("kind", [])),
            runs=tuple(request.query.getall("run", [])),
            before=max(0, self.intake.feed.position + 1 if before is None else before),
            limit=max(1, _limit(request)),
        )
        try:
            found = await self._searcher.search(query)
        except TrainbusError as error:
            return problem(503, error.problem)
        # Each encoded as in the stream: one huge event must not make the answer huge.
        listed = b",".join(event_json(event) for event in found.events)
        rest = msgspec.json.encode({"next": found.next, "looked": found.looked, "reached": found.reached})
        return body(request, b'{"events":[%s],%s' % (listed, rest[1:]), "application/json")

    # --- the visitor himself -------------------------------------------------------------------------

    async def layout(self, request: web.Request) -> web.Response:
        """How he has arranged the page."""
        kept = self._layouts.of(security.holder(self._config, request.headers, request.cookies))
        return body(request, msgspec.json.encode(kept), "application/json")

    async def keep_layout(self, request: web.Request) -> web.Response:
        """A viewer may, too: it changes nothing but his own page."""
        if refusal := security.refuse_foreign(request.headers):
            return problem(refusal.status, refusal.problem)
        holder = security.holder(self._config, request.headers, request.cookies)
        sent = await request.read()
        try:
            # A flush may take as long as the disk likes.
            kept = await asyncio.to_thread(self._layouts.keep, holder, sent)
        except RefusedRequest as refused:
            return problem(refused.status, str(refused))
        return body(request, msgspec.json.encode(kept), "application/json", status=202)

    # --- for scripts ---------------------------------------------------------------------------------

    async def memory_stats(self, request: web.Request) -> web.Response:
        """Memory of a machine."""
        return answer(request, memory_stats(self.intake.store.systems.values(), request.query.get("host", ""), time.time_ns()))

    async def gpu_stats(self, request: web.Request) -> web.Response:
        """All GPUs."""
        return answer(request, gpu_stats(self.intake.store.systems.values()))

    async def config(self, request: web.Request) -> web.Response:
        """Configuration of a run."""
        view = self._chosen(request)
        return answer(
            request, {"run": view.run, "name": view.name, "config": view.config} if view else {"run": "", "name": "", "config": {}}
        )

    async def accuracy(self, request: web.Request) -> web.Response:
        """Running accuracy of a run."""
        return answer(request, (self._chosen(request) or RunView("")).answers.figures())

    async def inbox_files(self, request: web.Request) -> web.Response:
        """Data files of a run."""
        view = self._chosen(request)
        return answer(request, {"run": view.run if view else "", "files": view.listed("jobs", time.time_ns()) if view else []})

    async def inbox_samples(self, request: web.Request) -> web.Response:
        """Samples by data set."""
        view = self._chosen(request)
        sets: dict[str, list[Any]] = {}
        for sample in reversed(view.answers.recent) if view else ():
            entries = sets.setdefault(sample.dataset, [])
            if len(entries) < _limit(request):
                entries.append(shown(sample))
        return answer(request, {"run": view.run if view else "", "datasets": sets})

    async def flagged(self, request: web.Request) -> web.Response:
        """Samples that deserve a look."""
        view, wanted = self._chosen(request), request.query.get("reason", "")
        found = [
            shown(sample) | {"reasons": reasons, "confidence": confidence(sample)}
            for sample, reasons in (reversed(view.answers.flagged) if view else ())
            if not wanted or wanted in reasons
        ]
        return answer(request, {"run": view.run if view else "", "found": len(found), "samples": found[: _limit(request)]})

    async def evolution(self, request: web.Request) -> web.Response:
        """One example over the checkpoints."""
        view, example = self._chosen(request), request.query.get("example", "")
        examples = view.answers.examples if view else {}
        return answer(
            request,
            {
                "run": view.run if view else "",
                "examples": {name: len(kept) for name, kept in examples.items()},
                "answers": [shown(sample) | {"confidence": confidence(sample)} for sample in examples.get(example, ())],
            },
        )

    def _chosen(self, request: web.Request) -> RunView | None:
        """The run that is asked for, or the one that was heard of last.

        Raises:
            web.HTTPNotFound: The run that is asked for is not known.
        """
        runs, name = self.intake.store.runs, request.query.get("run", "")
        if name and name not in runs:
            raise web.HTTPNotFound(reason="No such run is known here.")
        return runs[name] if name else max(runs.values(), key=lambda run: (run.updated, run.run), default=None)


def _limit(request: web.Request) -> int:
    return min(MAX_LIMIT, max(0, DEFAULT_LIMIT if (given := number(request, "limit")) is None else given))


def _searched(entries: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Entries in one of whose texts, numbers or keys the text stands."""
    if not text:
        return entries
    wanted = text.casefold()
    return [entry for entry in entries if any(wanted in str(value).casefold() for value in entry.values())]
