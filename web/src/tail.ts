// A part of the journal as it is looked at: the newest events that match, continued by live ones, and back as far as one likes.

import { ApiError, get, type Parameters } from "./net";
import type { BusEvent } from "./types";

// While it follows the live events it shows so many.
export const SHOWN = 200;
// A visitor who goes back further than this has read enough; what stands on the page stays bounded.
const FURTHEST = 4000;
const NEWEST = -1;

const PLAIN = new Set(["kind", "run", "source", "seq", "time", "offset", "not_finite"]);

export interface Wanted {
  text: string;
  kind: string;
  run: string;
}

interface Answer {
  events: BusEvent[];
  next: number | null;
  looked: number;
}

const gists = new WeakMap<BusEvent, string>();

// The fields that say something, in one line. An event is drawn many times while it passes by.
export function gist(event: BusEvent): string {
  const known = gists.get(event);
  if (known !== undefined) return known;
  const parts = Object.entries(event).flatMap(([name, value]) => {
    if (PLAIN.has(name) || value === null || value === "" || (typeof value === "object" && !Object.keys(value as object).length)) return [];
    if (name === "metrics") return Object.entries(value as Record<string, unknown>).map(([metric, found]) => `${metric} ${typeof found === "number" ? Number(found.toPrecision(4)) : found}`);
    return [`${name} ${typeof value === "object" ? JSON.stringify(value) : value}`];
  });
  const made = parts.join("  ").slice(0, 400);
  gists.set(event, made);
  return made;
}

const wordsOf = (text: string) => text.toLowerCase().split(/\s+/).filter(Boolean);

// The server's rule, so that an event is found live as it is found in the journal: each word, wherever it stands.
function matches(event: BusEvent, wanted: Wanted, words: string[]): boolean {
  if ((wanted.kind && event.kind !== wanted.kind) || (wanted.run && event.run !== wanted.run)) return false;
  if (!words.length) return true;
  const { seq, time, offset, ...searched } = event;
  const text = JSON.stringify(searched).toLowerCase();
  return words.every((word) => text.includes(word) || gist(event).toLowerCase().includes(word));
}

export class Looking {
  // The oldest first, each once.
  events: BusEvent[] = [];
  // Whether the newest event of the bus is among them, as far as it matches.
  live = true;
  busy = false;
  problem = "";
  // Events that were read in the journal for this.
  looked = 0;
  // Where the journal goes on: before this offset; null: everything was looked at.
  next: number | null = NEWEST;
  private last = -1;
  private ended = false;
  // How often the oldest were let go.
  private cuts = 0;
  private readonly words: string[];

  constructor(
    readonly wanted: Wanted,
    private readonly changed: () => void,
  ) {
    this.words = wordsOf(wanted.text);
  }

  get narrowed(): boolean {
    return Boolean(this.words.length || this.wanted.kind || this.wanted.run);
  }

  // The live events, as many as are kept, without a hole: those that came since the last time are taken.
  take(tail: readonly BusEvent[]): void {
    if (!this.live || !tail.length) return;
    if (this.next === NEWEST) this.next = tail[0].offset;
    const fresh = tail.filter((event) => event.offset > this.last && matches(event, this.wanted, this.words));
    this.last = Math.max(this.last, tail[tail.length - 1].offset);
    if (!fresh.length) return;
    this.events = [...this.events, ...fresh];
    if (this.events.length > SHOWN) {
      this.events = this.events.slice(-SHOWN);
      this.cuts += 1;
      this.next = this.events[0].offset;
    }
    this.changed();
  }

  hold(): void {
    this.live = false;
    this.changed();
  }

  // The next page of the journal. What has been gone back to stays on the page, so live events wait meanwhile.
  async back(hold: boolean): Promise<void> {
    if (this.busy || this.next === null) return;
    this.busy = true;
    this.problem = "";
    if (hold) this.live = false;
    this.changed();
    const { cuts } = this;
    const parameters: Parameters = [["limit", hold ? SHOWN : Math.max(1, SHOWN - this.events.length)]];
    if (this.next !== NEWEST) parameters.push(["before", this.next]);
    if (this.wanted.text.trim()) parameters.push(["search", this.wanted.text]);
    if (this.wanted.kind) parameters.push(["kind", this.wanted.kind]);
    if (this.wanted.run) parameters.push(["run", this.wanted.run]);
    try {
      const answer = await get<Answer>("/api/history", parameters);
      // What was asked for would leave a hole behind what has been let go since.
      if (this.ended || cuts !== this.cuts) return;
      const oldest = this.events.length ? this.events[0].offset : Infinity;
      this.events = [...answer.events.filter((event) => event.offset < oldest).reverse(), ...this.events];
      this.last = Math.max(this.last, answer.events[0]?.offset ?? -1);
      this.looked += answer.looked;
      this.next = this.events.length < FURTHEST ? answer.next : null;
    } catch (error) {
      if (this.ended) return;
      this.problem = error instanceof ApiError ? error.message : String(error);
    } finally {
      this.busy = false;
    }
    this.changed();
  }

  // Nobody looks any more: an answer that is still on its way changes nothing.
  end(): void {
    this.ended = true;
  }
}
