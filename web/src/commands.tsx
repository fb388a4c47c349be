// Asking a run, or a plugin about it: the request, and the dialog that says what it costs and takes a reason.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { duration } from "./format";
import { now, useList } from "./model";
import { ApiError, post } from "./net";
import { useValue } from "./observable";
import { Pill, TONES } from "./panel";
import type { Order } from "./types";

// What has its result stays in sight for so long, in ms.
export const LONG_AGO = 60_000;

export const pending = (order: Order): boolean => order.state === "sent" || order.state === "accepted";

const WORDS = { sent: "on its way", accepted: "accepted", done: "done", refused: "refused" };
const MOST_SHOWN = 6;

const plainly = (order: Order) => [order.verb, Object.entries(order.arguments).map(([name, value]) => `${name} ${value}`).join(", ")] as const;

// Commands to the run that are not finished, and those that ended in the last minute: the ones that `mine` names. `say` puts one into words.
export function Orders({ id, label, mine, say = plainly }: { id: string; label: string; mine: (order: Order) => boolean; say?: (order: Order) => readonly [string, string] }) {
  const orders = useList<Order>("commands").data?.entries ?? [];
  const at = useValue(now);
  const shown = orders.filter((order) => !order.plugin && mine(order) && (pending(order) || at - (order.answered ?? 0) / 1e6 < LONG_AGO)).slice(0, MOST_SHOWN);
  if (!shown.length) return null;
  return (
    <ul class="orders" id={id} aria-live="polite" aria-label={label}>
      {shown.map((order) => (
        <li key={order.command} class={order.state}>
          <b>{say(order)[0]}</b> {say(order)[1]} <Pill text={WORDS[order.state]} tone={TONES[order.state]} />{" "}
          <span class="meta">{[order.reason, order.requested_by, pending(order) ? `for ${duration((at - order.time / 1e6) / 1000)}` : ""].filter(Boolean).join(" · ")}</span>
        </li>
      ))}
    </ul>
  );
}

interface Asked {
  verb: string;
  plugin?: string;
  arguments?: Record<string, unknown>;
  reason?: string;
}

// Gives what went wrong; empty when the command is on its way.
export async function command(run: string, asked: Asked): Promise<string> {
  try {
    await post(`/api/runs/${encodeURIComponent(run)}/commands`, asked);
    return "";
  } catch (error) {
    return error instanceof ApiError ? error.message : String(error);
  }
}

interface Options {
  title: string;
  subject: string;
  text: string;
  button: string;
  danger?: boolean;
  // What is asked is no event of the journal, so that a reason would be lost.
  unreasoned?: boolean;
  children?: ComponentChildren;
  // Gives what went wrong; empty when nothing did.
  send: (reason: string) => Promise<string>;
  close: () => void;
}

export function CommandDialog({ title, subject, text, button, danger, unreasoned, children, send, close }: Options) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    const told = await send(reason);
    setProblem(told);
    setBusy(false);
    if (!told) close();
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="confirm-title" class="confirm">
      <form onSubmit={submit}>
        <h2 id="confirm-title">{title}</h2>
        <p class="meta">{subject}</p>
        <p>{text}</p>
        {children}
        {unreasoned ? null : (
          <label>
            Reason (kept in the journal)
            <input name="reason" maxLength={500} autoComplete="off" value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
          </label>
        )}
        {problem ? (
          <p class="bad" role="alert">
            {problem}
          </p>
        ) : null}
        <div class="buttons">
          <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
          <button type="submit" class={`primary ${danger ? "danger" : ""}`} disabled={busy}>
            {button}
          </button>
        </div>
      </form>
    </dialog>
  );
}
