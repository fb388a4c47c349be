// The keys of the page, in one table that also makes the help sheet.

import { useEffect, useRef } from "preact/hooks";
import { resetLayout } from "./layout";
import { go, logarithmic, smoothing, state, toggleCompared, zoom } from "./model";
import { nextTheme } from "./theme";
import { switchSound } from "./toasts";

const neighbour = (by: number) => {
  const runs = state.value?.runs ?? [];
  const at = runs.findIndex((run) => run.run === state.value?.run?.run);
  const next = runs[at + by];
  if (next) go({ run: next.run });
};

const focus = (id: string) => document.getElementById(id)?.focus();

const KEYS: [key: string, text: string, act: () => void][] = [
  ["j", "next run", () => neighbour(1)],
  ["k", "previous run", () => neighbour(-1)],
  ["c", "compare this run", () => state.value?.run && toggleCompared(state.value.run.run)],
  ["l", "logarithmic loss", () => (logarithmic.value = !logarithmic.value)],
  ["s", "smoothing on and off", () => (smoothing.value = smoothing.value > 0 ? 0 : 0.6)],
  ["z", "whole run", () => zoom(null)],
  ["f", "loss on the full screen", () => document.getElementById("panel-loss")?.requestFullscreen()],
  ["/", "search samples", () => focus("samples-search")],
  ["m", "search metrics", () => focus("metrics-search")],
  ["e", "filter events", () => focus("events-filter")],
  ["t", "light, dark, as the system", nextTheme],
  ["b", "sound at critical alerts on and off", switchSound],
  ["a", "description of the API", () => go({ page: "api" })],
];

export function useKeys(help: () => void): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog")) return;
      const found = event.key === "?" ? help : KEYS.find(([key]) => key === event.key)?.[2];
      if (!found) return;
      event.preventDefault();
      found();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

export function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="help-title">
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        {[["?", "this sheet"] as const, ...KEYS].map(([key, text]) => [
          <dt key={key}>
            <kbd>{key}</kbd>
          </dt>,
          <dd key={`${key}=`}>{text}</dd>,
        ])}
        <dt>
          <kbd>←</kbd> <kbd>→</kbd>
        </dt>
        <dd>move the crosshair of a chart; Page Up and Down by 20, Home and End to the ends</dd>
        <dt>
          <kbd>Alt</kbd> <kbd>↑</kbd> <kbd>↓</kbd>
        </dt>
        <dd>on the title of a panel: move it</dd>
        <dt>
          <kbd>Alt</kbd> <kbd>←</kbd> <kbd>→</kbd>
        </dt>
        <dd>on the title of a panel: narrower, wider</dd>
      </dl>
      <p class="meta">Drag in a chart to zoom, double-click for the whole run. Click a panel's title to fold it; drag its handle to move it, press ⇔ for another width. The server keeps your layout.</p>
      <div class="buttons">
        <button id="reset-layout" type="button" class="quiet" onClick={resetLayout}>
          Reset the layout
        </button>
        <button type="button" class="primary" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </div>
    </dialog>
  );
}
