// A value that components watch. Small on purpose: one value, its listeners, and a hook that re-renders when the chosen part changes.

import { useEffect, useState } from "preact/hooks";

export class Observable<T> {
  private listeners = new Set<() => void>();

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  set value(next: T) {
    if (Object.is(next, this.current)) return;
    this.current = next;
    for (const listener of [...this.listeners]) listener();
  }

  watch(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

export function useValue<T, R = T>(source: Observable<T>, choose: (value: T) => R = (value) => value as unknown as R): R {
  const [, redraw] = useState(0);
  const chosen = choose(source.value);
  useEffect(() => {
    let last = chosen;
    const look = () => {
      const now = choose(source.value);
      if (Object.is(now, last)) return;
      last = now;
      redraw((count) => count + 1);
    };
    look();
    return source.watch(look);
  }, [source]);
  return chosen;
}

// A setting that outlives a reload.
export class Setting<T> extends Observable<T> {
  constructor(
    private readonly key: string,
    fallback: T,
  ) {
    let kept = fallback;
    try {
      const text = localStorage.getItem(key);
      if (text !== null) kept = JSON.parse(text) as T;
    } catch {
      localStorage.removeItem(key);
    }
    super(kept);
    this.watch(() => localStorage.setItem(this.key, JSON.stringify(this.value)));
  }
}

// A text that is typed settles before the server is asked.
export function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), 250);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
