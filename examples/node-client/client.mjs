// node client.mjs HOME publish RUN STEPS    publishes steps, obeys commands, ends the run when it is told to stop
// node client.mjs HOME read RUN             prints offset and event of the run as JSON lines, until the run has ended

import { Connection, Publisher, read } from "./bus.mjs"

const KINDS = ["run_started", "step", "command", "command_result", "run_ended"]

async function publish(connection, run, steps) {
  const publisher = new Publisher(connection, run)
  publisher.publish("run_started", { name: "node", pid: process.pid })
  for (let step = 0; step < steps; step++) {
    publisher.publish("step", { step, metrics: { loss: step === 7 ? NaN : 1 / (step + 1) } })
  }
  await publisher.flush()
  while (true) {
    for (const command of await publisher.turn()) {
      publisher.publish("command_result", { command: command.id, verb: command.verb, state: "done" })
      if (command.verb !== "stop") continue
      publisher.publish("run_ended", { outcome: "stopped", reason: command.reason ?? "" })
      await publisher.flush()
      await publisher.bye()
      return
    }
  }
}

async function print(connection, run) {
  for await (const [offset, event] of read(connection, run, KINDS)) {
    console.log(JSON.stringify([offset, event], (_, value) => (typeof value === "bigint" ? value.toString() : value)))
    if (event.kind === "run_ended") return
  }
}

const [home, what, run, steps] = process.argv.slice(2)
if (!home || !run || !["publish", "read"].includes(what)) {
  console.error("usage: node client.mjs HOME publish RUN STEPS | node client.mjs HOME read RUN")
  process.exit(2)
}
const connection = new Connection(home)
await (what === "publish" ? publish(connection, run, Number(steps ?? 100)) : print(connection, run))
connection.close()
