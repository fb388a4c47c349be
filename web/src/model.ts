// The page's state: what the server said last, where in it the visitor looks, and the stream that keeps it fresh.

import { useEffect, useState } from "preact/hooks";
import { ApiError, get, type Connection, type Parameters, STALE_AFTER, Stream } from "./net";
import { Observable, Setting, useValue } from "./observable";
import { SeriesBook } from "./series";
import type { BusEvent, RunDetail, State } from "./types";

// The state is fetched again at most this often, in ms, however many events come.
const REFRESH_PAUSE = 1000;
const IDLE_REFRESH = 5000;
// The list of events is drawn again at most this often, in ms.
const TAIL_PAUSE = 500;
const RECENT_EVENTS = 60;
const KEPT_EVENTS = 1000;

export interface View {
  run: string;
  compare: string[];
  page: "" | "api";
  // The example whose answers are followed.
  example: string;
  from: number | null;
  to: number | null;
}

export const state = new Observable<State | null>(null);
export const connection = new Observable<Connection>({ phase: "connecting" });
export const view = new Observable<View>(readAddress());
export const arrivals = new Observable<BusEvent | null>(null);
export const tail = new Observable<readonly BusEvent[]>([]);
export const now = new Observable(Date.now());
// Grows with each time that the page was brought up to date after a connection was lost.
export const connections = new Observable(0);
export const pinned = new Setting<string[]>("trainbus-pinned", []);
export const smoothing = new Setting("trainbus-smoothing", 0.6);
export const logarithmic = new Setting("trainbus-log", false);
export const book = new SeriesBook();

// --- the address is the view ----------------------------------------------------------------------

function readAddress(): View {
  const found = new URLSearchParams(location.hash.slice(1));
  const step = (name: string) => (found.has(name) && Number.isFinite(Number(found.get(name))) ? Number(found.get(name)) : null);
  return {
    run: found.get("run") ?? "",
    compare: found.getAll("compare"),
    page: found.get("page") === "api" ? "api" : "",
    example: found.get("example") ?? "",
    from: step("from"),
    to: step("to"),
  };
}

export function go(change: Partial<View>): void {
  const next = { ...view.value, ...change };
  if (change.run !== undefined && change.run !== view.value.run) {
    if (change.from === undefined) [next.from, next.to] = [null, null];
    if (change.example === undefined) next.example = "";
  }
  const query = new URLSearchParams();
  if (next.run) query.set("run", next.run);
  for (const run of next.compare) query.append("compare", run);
  if (next.page) query.set("page", next.page);
  if (next.example) query.set("example", next.example);
  if (next.from !== null && next.to !== null) {
    query.set("from", String(next.from));
    query.set("to", String(next.to));
  }
  location.hash = query.toString();
}

export function toggleCompared(run: string): void {
  const { compare } = view.value;
  go({ compare: compare.includes(run) ? compare.filter((other) => other !== run) : [...compare, run].slice(-8) });
}

addEventListener("hashchange", () => {
  view.value = readAddress();
  book.look(state.value?.run?.run ?? "", range());
  refresh();
});

export const range = (): [number, number] | null =>
  view.value.from !== null && view.value.to !== null ? [view.value.from, view.value.to] : null;

export const zoom = (chosen: [number, number] | null): void => go({ from: chosen?.[0] ?? null, to: chosen?.[1] ?? null });

// --- fetching -------------------------------------------------------------------------------------

async function fetchState(): Promise<State> {
  const wanted = view.value.run;
  const parameters: Parameters = [["lists", "no"]];
  if (wanted) parameters.push(["run", wanted]);
  const answer = await get<State>("/api/state", parameters);
  if (wanted && wanted === view.value.run && !answer.run && answer.runs.length && !answer.loading) {
    go({ run: "" });
    view.value = readAddress();
    return fetchState();
  }
  if (wanted !== view.value.run) return answer;
  state.value = answer;
  now.value = Date.now();
  book.look(answer.run?.run ?? "", range());
  return answer;
}

let newest = -1;
let connected = false;

// Bring everything up to date; gives the offset after which the stream must continue.
async function resume(): Promise<number> {
  const answer = await fetchState();
  // What was missed is in the journal; the list must not look as if nothing lay between.
  if (newest >= 0 && answer.offset - RECENT_EVENTS > newest) [tail.value, waiting] = [[], []];
  if (connected) connections.value += 1;
  connected = true;
  book.renew();
  // A little earlier, so that the list of events is not empty; charts skip what they know already.
  newest = Math.min(newest, answer.offset);
  return Math.max(newest, answer.offset - RECENT_EVENTS, -1);
}

export const stream = new Stream({ resume, onEvent, onState: (found) => (connection.value = found) });

let waiting: BusEvent[] = [];
let timer: ReturnType<typeof setTimeout> | null = null;
let fetching = false;
let last = 0;
let again = false;

export function refresh(): void {
  again = true;
  if (timer !== null || fetching) return;
  timer = setTimeout(runRefresh, Math.max(0, last + REFRESH_PAUSE - Date.now()));
}

async function runRefresh(): Promise<void> {
  timer = null;
  if (document.hidden) return;
  fetching = true;
  again = false;
  try {
    await fetchState();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // The stream notices a lost server and says so; what is shown stays.
  } finally {
    fetching = false;
    last = Date.now();
    if (again && connection.value.phase === "live") refresh();
  }
}

function onEvent(event: BusEvent): void {
  // After a reconnection some events come twice: they are known by their offset.
  if (event.offset > newest) {
    newest = event.offset;
    arrivals.value = event;
    if (!waiting.length) setTimeout(showTail, TAIL_PAUSE);
    waiting.push(event);
    if (waiting.length > KEPT_EVENTS) waiting = waiting.slice(-KEPT_EVENTS);
    refresh();
  }
  book.take(event, state.value?.run?.step ?? 0);
}

function showTail(): void {
  tail.value = [...tail.value, ...waiting].slice(-KEPT_EVENTS);
  waiting = [];
}

export const stale = new Observable(false);

const judge = () => (stale.value = connection.value.phase === "waiting" || stream.silence() > STALE_AFTER);
connection.watch(judge);

setInterval(() => {
  now.value = Date.now();
  judge();
  // Ages and estimates change without events; while history is read, so does everything.
  if (connection.value.phase === "live" && (state.value?.loading || Date.now() - last > IDLE_REFRESH)) refresh();
}, 1000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});

// --- for components -------------------------------------------------------------------------------

export const useRun = (): RunDetail | null => useValue(state, (value) => value?.run ?? null);

export interface Resource<T> {
  data: T | null;
  problem: string;
  loading: boolean;
  retry: () => void;
}

// Panels that ask for the same thing at the same time share one answer.
const SHARED = 100;
const answers = new Map<string, { stamp: string; answer: Promise<unknown> }>();

function shared<T>(key: string, stamp: string, path: string, parameters: Parameters): Promise<T> {
  const known = answers.get(key);
  if (known?.stamp === stamp) return known.answer as Promise<T>;
  const answer = get<T>(path, parameters);
  const entry = { stamp, answer };
  answers.delete(key);
  answers.set(key, entry);
  if (answers.size > SHARED) answers.delete(answers.keys().next().value as string);
  answer.catch(() => answers.get(key) === entry && answers.delete(key));
  return answer;
}

// An answer of the API that is fetched again when `version` changes, and after each reconnection. The last good one stays beside a
// problem. Where `nothing` is given, version 0 means that there is nothing yet, and nobody is asked.
export function useResource<T>(path: string, parameters: Parameters, version: unknown, nothing?: T): Resource<T> {
  const key = JSON.stringify([path, parameters]);
  const [found, setFound] = useState<{ key: string; data: T | null; problem: string }>({ key: "", data: null, problem: "" });
  const [tries, setTries] = useState(0);
  const times = useValue(connections);
  const none = nothing !== undefined && !version;
  useEffect(() => {
    if (!path || none) return;
    let current = true;
    shared<T>(key, JSON.stringify([version, tries, times]), path, parameters).then(
      (data) => current && setFound({ key, data, problem: "" }),
      (error) => current && setFound((before) => ({ key, data: before.key === key ? before.data : null, problem: error instanceof ApiError ? error.message : String(error) })),
    );
    return () => {
      current = false;
    };
  }, [key, version, tries, times, none]);
  const retry = () => setTries((count) => count + 1);
  if (none) return { data: path ? nothing : null, problem: "", loading: !path, retry };
  const mine = found.key === key;
  return { data: mine ? found.data : null, problem: mine ? found.problem : "", loading: !mine, retry };
}

export interface Listed<T> {
  entries: T[];
  found: number;
  all: number;
}

const EMPTY = { entries: [], found: 0, all: 0 };

export function useList<T>(name: string, parameters: Parameters = []): Resource<Listed<T>> {
  const run = useRun();
  const path = run ? `/api/runs/${encodeURIComponent(run.run)}/lists/${name}` : "";
  return useResource<Listed<T>>(path, parameters, run?.versions[name] ?? 0, EMPTY);
}
