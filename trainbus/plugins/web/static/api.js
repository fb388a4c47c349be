// The server: answers of the API, and the stream of events with its reconnection.

export const STALE_AFTER = 10_000;
const LONGEST_PAUSE = 30_000;

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem);
    this.status = status;
  }
}

export async function get(path, parameters = []) {
  const query = new URLSearchParams(parameters).toString();
  const response = await fetch(query ? `${path}?${query}` : path, { headers: { Accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new ApiError(response.status, answer.problem ?? `HTTP ${response.status}`);
  return answer;
}

// Keeps one event stream open. `resume` is awaited before each connection: it brings the page up to date and gives the offset
// after which events are wanted. `onEvent(event)` gets each event once; `onState(state)` gets
// {phase: "connecting" | "live" | "waiting", retryAt, problem}.
export class Stream {
  constructor({ resume, onEvent, onState }) {
    this.resume = resume;
    this.onEvent = onEvent;
    this.onState = onState;
    this.heard = Date.now();
    this.failures = 0;
    this.source = null;
    this.timer = null;
    this.attempt = 0;
    setInterval(() => this.checkSilence(), 1000);
  }

  async connect() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.attempt += 1;
    const attempt = this.attempt;
    this.onState({ phase: "connecting" });
    try {
      const after = await this.resume();
      if (attempt === this.attempt) this.open(after);
    } catch (error) {
      if (attempt === this.attempt) this.wait(error instanceof ApiError ? error.message : "The server does not answer.");
    }
  }

  open(after) {
    this.heard = Date.now();
    const source = new EventSource(`/api/events?after=${after}`);
    this.source = source;
    const alive = () => {
      this.heard = Date.now();
      this.failures = 0;
      this.onState({ phase: "live" });
    };
    source.onopen = alive;
    source.addEventListener("ping", alive);
    source.addEventListener("loading", alive);
    source.onmessage = (message) => {
      alive();
      this.onEvent(JSON.parse(message.data));
    };
    source.onerror = () => {
      if (this.source === source) this.wait("The connection was lost.");
    };
  }

  // Growing pauses of our own: the browser's would stay at 3 s, and would skip bringing the page up to date.
  wait(problem) {
    this.source?.close();
    this.source = null;
    const pause = Math.min(LONGEST_PAUSE, 1000 * 2 ** this.failures);
    this.failures += 1;
    this.onState({ phase: "waiting", retryAt: Date.now() + pause, problem });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), pause);
  }

  silence() {
    return Date.now() - this.heard;
  }

  // A connection can be dead without an error: a laptop that slept, a cable that was pulled.
  checkSilence() {
    if (this.source && this.silence() > 2 * STALE_AFTER) this.wait("The server went silent.");
  }
}
