// Files on their way into the trainer's inbox: chosen in the queue, or dropped anywhere on the page.

import { useEffect, useState } from "preact/hooks";
import { bytes } from "./format";
import { state } from "./model";
import { address } from "./net";
import { Observable } from "./observable";

export interface Upload {
  id: number;
  name: string;
  size: number;
  sent: number;
  state: "sending" | "done" | "refused";
  told: string;
}

export const uploads = new Observable<readonly Upload[]>([]);

// What is told stays for so long, in ms.
const TOLD = 60_000;

let count = 0;

function change(id: number, part: Partial<Upload>): void {
  uploads.value = uploads.value.map((upload) => (upload.id === id ? { ...upload, ...part } : upload));
}

function refusal(file: File): string {
  const offered = state.value?.uploads;
  if (state.value?.role !== "operator") return "Only an operator may add files.";
  if (!offered) return "No inbox is known to this dashboard.";
  if (!offered.endings.some((ending) => file.name.toLowerCase().endsWith(ending))) return `The trainer takes ${offered.endings.join(", ")}.`;
  if (file.size > offered.largest) return `At most ${bytes(offered.largest)} are taken.`;
  return file.size ? "" : "The file is empty.";
}

export async function add(files: Iterable<File>, priority = "normal"): Promise<void> {
  // One after the other: together they would only share the line.
  for (const file of files) {
    const id = (count += 1);
    const problem = refusal(file);
    uploads.value = [...uploads.value, { id, name: file.name, size: file.size, sent: 0, state: problem ? "refused" : "sending", told: problem }];
    if (!problem) await send(id, file, priority);
    setTimeout(() => (uploads.value = uploads.value.filter((upload) => upload.id !== id)), TOLD);
  }
}

// Not fetch: it does not tell how much has been sent.
function send(id: number, file: File, priority: string): Promise<void> {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const end = (part: Partial<Upload>) => {
      change(id, part);
      resolve();
    };
    request.open("POST", address("/api/inbox", [["name", file.name], ["priority", priority]]));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => change(id, { sent: event.loaded });
    request.onerror = () => end({ state: "refused", told: "The connection was lost." });
    request.onload = () =>
      request.status === 202
        ? end({ state: "done", sent: file.size, told: `in the inbox as ${request.response?.name}` })
        : end({ state: "refused", told: request.response?.problem ?? `HTTP ${request.status}` });
    request.send(file);
  });
}

const carriesFiles = (event: DragEvent) => Boolean(event.dataTransfer?.types.includes("Files"));

// A file that is dropped beside the mark must not replace the page.
export function DropTarget() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const drag = (event: DragEvent) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (!event.relatedTarget) setOver(false);
    };
    const drop = (event: DragEvent) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      setOver(false);
      add(event.dataTransfer?.files ?? []);
    };
    addEventListener("dragover", drag);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragover", drag);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, []);
  if (!over) return null;
  const offered = state.value?.uploads;
  return (
    <div id="drop" class={`drop-over ${offered ? "" : "no"}`}>
      <p>{offered ? `Drop to add to the inbox (${offered.endings.join(", ")})` : state.value?.role === "operator" ? "No inbox is known to this dashboard" : "Only an operator may add files"}</p>
    </div>
  );
}
