// What an operator can do with the files of the queue: the buttons of a file, and of the queue as a whole.

import { useState } from "preact/hooks";
import { CommandDialog, command, pending } from "../commands";
import { state, useList, useRun } from "../model";
import { useValue } from "../observable";
import type { Job, Order } from "../types";

export const ofQueue = (order: Order): boolean => order.verb.startsWith("queue_");

const PRIORITIES = ["high", "normal", "low"];
const ENDED = ["completed", "stopped", "failed"];

const idOf = (job: Job): string => job.id || job.file;
export const nameOf = (job: Job): string => job.file.split("/").at(-1) ?? job.file;

// A command in words: what was asked, and for which file.
export function say(order: Order, jobs: Job[]): readonly [string, string] {
  const { job, priority } = order.arguments;
  const found = jobs.find((one) => idOf(one) === job);
  const verb = order.verb.replace("queue_", "");
  return [verb === "priority" ? `priority ${priority}` : verb, found ? nameOf(found) : String(job ?? "")];
}

interface Costly {
  verb: string;
  job?: Job;
  title: string;
  text: string;
  button: string;
}

// Sends a command about the queue, after a question where it is not easily undone.
export function useQueueOrders(): { may: boolean; held: boolean; problem: string; asked: Costly | null; ask: (costly: Costly | null) => void; send: (verb: string, job?: Job, priority?: string) => void; waits: (job: Job) => boolean } {
  const run = useRun();
  const operator = useValue(state, (value) => value?.role === "operator");
  const orders = useList<Order>("commands").data?.entries ?? [];
  const [problem, setProblem] = useState("");
  const [asked, ask] = useState<Costly | null>(null);
  const send = async (verb: string, job?: Job, priority?: string) => {
    setProblem("");
    setProblem(await command(run?.run ?? "", { verb, arguments: { ...(job ? { job: idOf(job) } : {}), ...(priority ? { priority } : {}) } }));
  };
  // The last answer tells; the run itself says so, too, once it waits because of it.
  const last = orders.find((order) => (order.verb === "queue_hold" || order.verb === "queue_release") && order.state === "done");
  const held = last ? last.verb === "queue_hold" : Boolean(run?.phase?.detail.includes("queue is held"));
  return {
    may: operator && run !== null && !ENDED.includes(run.state),
    held,
    problem,
    asked,
    ask,
    send,
    waits: (job) => orders.some((order) => ofQueue(order) && pending(order) && order.arguments.job === idOf(job)),
  };
}

type Sending = ReturnType<typeof useQueueOrders>;

export function JobButtons({ job, sending }: { job: Job; sending: Sending }) {
  const { send, ask } = sending;
  const place = PRIORITIES.indexOf(job.priority);
  if (sending.waits(job)) return null;
  const button = (verb: string, text: string, label: string, act: () => void) => (
    <button type="button" class="quiet small" data-queue={verb} aria-label={/^\w/.test(text) ? `${text} ${nameOf(job)}` : `${label}: ${nameOf(job)}`} title={label} onClick={act}>
      {text}
    </button>
  );
  const waiting = job.state === "queued";
  const aside = job.state === "skipped";
  return (
    <span class="deeds">
      {waiting && place > 0 ? button("higher", "↑", `Priority ${PRIORITIES[place - 1]}`, () => send("queue_priority", job, PRIORITIES[place - 1])) : null}
      {waiting && place >= 0 && place < 2 ? button("lower", "↓", `Priority ${PRIORITIES[place + 1]}`, () => send("queue_priority", job, PRIORITIES[place + 1])) : null}
      {job.state === "failed" || aside ? button("retry", "Retry", "Let it wait again", () => send("queue_retry", job)) : null}
      {waiting || aside
        ? button("remove", "Remove", "Take it out of the queue", () =>
            ask({ verb: "queue_remove", job, title: "Take this file out of the queue?", text: "It is not trained on. The file itself is put aside, not deleted.", button: "Remove" }),
          )
        : null}
    </span>
  );
}

export function HoldButton({ sending }: { sending: Sending }) {
  const { held, send, ask } = sending;
  return (
    <button
      type="button"
      class="quiet small"
      data-queue={held ? "release" : "hold"}
      onClick={() =>
        held ? send("queue_release") : ask({ verb: "queue_hold", title: "Hold the queue?", text: "The present file is finished; no further one begins until the queue is released.", button: "Hold" })
      }
    >
      {held ? "Release the queue" : "Hold …"}
    </button>
  );
}

export function Question({ sending }: { sending: Sending }) {
  const run = useRun();
  const { asked, ask } = sending;
  if (!asked || !run) return null;
  return (
    <CommandDialog
      title={asked.title}
      subject={asked.job ? nameOf(asked.job) : run.run}
      text={asked.text}
      button={asked.button}
      danger={asked.verb === "queue_remove"}
      send={(reason) => command(run.run, { verb: asked.verb, arguments: asked.job ? { job: idOf(asked.job) } : {}, reason })}
      close={() => ask(null)}
    />
  );
}
