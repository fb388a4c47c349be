// What has just happened, in a corner for a while: alerts that were raised, runs that ended. Critical alerts can be heard, too.

import { arrivals, go, state } from "./model";
import { Observable, Setting, useValue } from "./observable";
import type { BusEvent } from "./types";

interface Toast {
  key: string;
  run: string;
  tone: string;
  text: string;
}

// What is shown stays for so long, in ms; while so many stand there, further ones are found in their panels only.
const SHOWN = 10_000;
const MOST = 4;

export const sounding = new Setting("trainbus-sound", false);
const toasts = new Observable<readonly Toast[]>([]);
const opened = Date.now();

const TONES: Record<string, string> = { completed: "info", stopped: "info", failed: "critical", lost: "critical" };

function toastOf(event: BusEvent): Toast | null {
  if (event.kind === "alert" && event.state === "raised" && event.severity !== "info") {
    return { key: `${event.run} ${event.rule}`, run: event.run, tone: String(event.severity), text: String(event.message || event.rule) };
  }
  if (event.kind !== "run_ended") return null;
  const outcome = String(event.outcome);
  return { key: `${event.run} ended`, run: event.run, tone: TONES[outcome] ?? "info", text: `Run ${outcome}${event.reason ? `: ${event.reason}` : ""}` };
}

const drop = (key: string) => (toasts.value = toasts.value.filter((toast) => toast.key !== key));

export function tell(toast: Toast): void {
  if (toasts.value.length >= MOST || toasts.value.some((other) => other.key === toast.key)) return;
  toasts.value = [...toasts.value, toast];
  setTimeout(() => drop(toast.key), SHOWN);
}

arrivals.watch(() => {
  const event = arrivals.value;
  // What was there before the page opened is no news.
  const toast = event && event.time / 1e6 > opened && !document.hidden ? toastOf(event) : null;
  if (toast) tell(toast);
  if (event && event.kind === "alert" && event.state === "raised" && event.severity === "critical" && event.time / 1e6 > opened) sound();
});

// Two short tones. A browser plays nothing before the visitor has touched the page; then it stays silent.
let audio: AudioContext | undefined;
let silentUntil = 0;

function sound(): void {
  if (!sounding.value || Date.now() < silentUntil) return;
  silentUntil = Date.now() + SHOWN;
  audio ??= new AudioContext();
  for (const [index, pitch] of [660, 880].entries()) {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    const begin = audio.currentTime + index * 0.18;
    tone.frequency.value = pitch;
    volume.gain.setValueAtTime(0.12, begin);
    volume.gain.exponentialRampToValueAtTime(0.001, begin + 0.16);
    tone.connect(volume).connect(audio.destination);
    tone.start(begin);
    tone.stop(begin + 0.17);
  }
}

export function switchSound(): void {
  sounding.value = !sounding.value;
  silentUntil = 0;
  drop("sound");
  tell({ key: "sound", run: "", tone: "info", text: sounding.value ? "Critical alerts are heard" : "No sound" });
  sound();
}

export function Toasts() {
  const shown = useValue(toasts);
  return (
    <div id="toasts" class="toasts" role="status" aria-live="polite">
      {shown.map((toast) => (
        <div class={`toast ${toast.tone}`} key={toast.key}>
          <button type="button" class="open" onClick={() => toast.run && toast.run !== state.value?.run?.run && go({ run: toast.run })}>
            <b>{toast.text}</b>
            {toast.run ? <span class="meta">{toast.run}</span> : null}
          </button>
          <button type="button" class="plain" aria-label="Close" onClick={() => drop(toast.key)}>
            ✕
          </button>
        </div>
      ))}
    </div>
  );
}
