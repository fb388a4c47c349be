// How the visitor has arranged the page: in this browser at once, and on the server, so that his other browsers show the same.

import { connections, pinned } from "./model";
import { ApiError, get, post } from "./net";
import type { Setting } from "./observable";
import { folded, order, widths } from "./panel";

// Changes that come together are sent together, in ms.
const PAUSE = 400;

const PARTS = { order, folded, widths, pinned };

type Layout = { [part in keyof typeof PARTS]: (typeof PARTS)[part]["value"] };

const held = (): Layout => ({ order: order.value, folded: folded.value, widths: widths.value, pinned: pinned.value });
const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

let changed = false;
let applying = false;
let timer: ReturnType<typeof setTimeout> | undefined;

function apply(found: Layout): void {
  applying = true;
  for (const [name, setting] of Object.entries(PARTS) as [keyof Layout, Setting<unknown>][]) {
    if (!same(setting.value, found[name])) setting.value = found[name];
  }
  applying = false;
}

// What the browser keeps stays when the server can't be asked.
async function load(): Promise<void> {
  try {
    const found = await get<Layout | null>("/api/layout");
    if (changed) return;
    if (found) apply(found);
    else if (!same(held(), { order: [], folded: [], widths: {}, pinned: [] })) note();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

async function send(): Promise<void> {
  timer = undefined;
  const sent = held();
  try {
    await post("/api/layout", sent);
    changed = !same(sent, held());
    if (changed) note();
  } catch (error) {
    // With the next connection it is tried again.
    if (!(error instanceof ApiError)) throw error;
  }
}

function note(): void {
  changed = true;
  clearTimeout(timer);
  timer = setTimeout(send, PAUSE);
}

const renew = () => (changed ? note() : load());

export function keepLayout(): void {
  for (const setting of Object.values(PARTS) as Setting<unknown>[]) setting.watch(() => applying || note());
  connections.watch(renew);
  // Another window may have changed it meanwhile.
  document.addEventListener("visibilitychange", () => document.hidden || renew());
  load();
}

export function resetLayout(): void {
  [order.value, folded.value, widths.value] = [[], [], {}];
}
