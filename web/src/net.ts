// The server: answers of the API, and the stream of events with its reconnection.

import type { BusEvent } from "./types";

export const STALE_AFTER = 10_000;
const LONGEST_PAUSE = 30_000;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    problem: string,
  ) {
    super(problem);
  }
}

export type Parameters = [string, string | number][];

export function address(path: string, parameters: Parameters = []): string {
  const query = new URLSearchParams(parameters.map(([name, value]) => [name, String(value)])).toString();
  return query ? `${path}?${query}` : path;
}

// The page's first script asks for the state while the rest of the page is on its way.
declare global {
  interface Window {
    early?: { path: string; answer: Promise<Response> };
  }
}

function begun(path: string): Promise<Response> | undefined {
  const early = window.early;
  window.early = undefined;
  return early?.path === path ? early.answer : undefined;
}

async function ask<T>(path: string, options: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await (begun(path) ?? fetch(path, options));
  } catch {
    throw new ApiError(0, "The server does not answer.");
  }
  const answer = await response.json().catch(() => ({ problem: `HTTP ${response.status}` }));
  if (!response.ok) throw new ApiError(response.status, answer.problem ?? `HTTP ${response.status}`);
  return answer as T;
}

export const get = <T>(path: string, parameters: Parameters = []): Promise<T> =>
  ask<T>(address(path, parameters), { headers: { Accept: "application/json" } });

export const post = <T>(path: string, value: unknown): Promise<T> =>
  ask<T>(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });

export interface Connection {
  phase: "connecting" | "live" | "waiting";
  retryAt?: number;
  problem?: string;
}

interface Options {
  // Brings the page up to date; gives the offset after which events are wanted.
  resume: () => Promise<number>;
  onEvent: (event: BusEvent) => void;
  onState: (state: Connection) => void;
}

// Keeps one event stream open. Each event arrives once for each connection, in the order of the journal.
export class Stream {
  private heard = Date.now();
  private failures = 0;
  private source: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private attempt = 0;
  private resting = false;

  constructor(private readonly options: Options) {
    setInterval(() => this.checkSilence(), 1000);
  }

  async connect(): Promise<void> {
    const attempt = this.drop();
    this.resting = false;
    this.options.onState({ phase: "connecting" });
    try {
      const after = await this.options.resume();
      if (attempt === this.attempt) this.open(after);
    } catch (error) {
      if (attempt === this.attempt) this.wait(error instanceof ApiError ? error.message : "The page could not be brought up to date.");
    }
  }

  // Let the connection go until somebody looks again; `wake` brings the page up to date.
  rest(): void {
    this.drop();
    this.resting = true;
  }

  wake(): void {
    if (!this.resting) return;
    this.heard = Date.now();
    this.connect();
  }

  private drop(): number {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.attempt += 1;
    return this.attempt;
  }

  private open(after: number): void {
    this.heard = Date.now();
    const source = new EventSource(`/api/events?after=${after}`);
    this.source = source;
    let told = false;
    const alive = () => {
      this.heard = Date.now();
      this.failures = 0;
      // Told once, not with each of a hundred events a second.
      if (!told) this.options.onState({ phase: "live" });
      told = true;
    };
    source.onopen = alive;
    source.addEventListener("ping", alive);
    source.addEventListener("loading", alive);
    source.onmessage = (message) => {
      alive();
      this.options.onEvent(JSON.parse(message.data));
    };
    source.onerror = () => {
      if (this.source === source) this.wait("The connection was lost.");
    };
  }

  // Growing pauses of our own: the browser's would stay at 3 s, and would skip bringing the page up to date.
  private wait(problem: string): void {
    this.source?.close();
    this.source = null;
    const pause = Math.min(LONGEST_PAUSE, 1000 * 2 ** this.failures);
    this.failures += 1;
    this.options.onState({ phase: "waiting", retryAt: Date.now() + pause, problem });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), pause);
  }

  silence(): number {
    return Date.now() - this.heard;
  }

  // A connection can be dead without an error: a laptop that slept, a cable that was pulled.
  private checkSilence(): void {
    if (this.source && this.silence() > 2 * STALE_AFTER) this.wait("The server went silent.");
  }
}
