// A window that nobody sees lets its event stream go: a browser has six connections to one server for all its windows together, and each
// stream takes one. It stays where the visitor wants to be notified.

import { stream } from "./model";
import { notifying } from "./notify";

// A window that is covered for a moment only keeps its stream, in ms.
const PATIENCE = 30_000;

export function restWhileHidden(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => notifying.value || stream.rest(), PATIENCE);
    else stream.wake();
  });
}
