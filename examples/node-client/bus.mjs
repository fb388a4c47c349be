// The wire of trainbus, as docs/protocol.md describes it: sockets, messages, a source of events, a reader without a seam.

import { randomUUID } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"

import { decode as unpack, encode as pack } from "@msgpack/msgpack"
import { Dealer, Subscriber } from "zeromq"

const PROTOCOL = 1
const BATCH = 100 // bodies in one message; the broker takes 2,000 or 1 MiB
const WINDOW = 400 // events sent and not acknowledged
const RESEND = 1000 // milliseconds without an answer after which something is sent again
const OPTIONS = { useBigInt64: true } // times are nanoseconds, beyond 2^53

const encode = value => pack(value, OPTIONS)
const decode = bytes => unpack(bytes, OPTIONS)

/** The two sockets of a broker on this machine. */
export class Connection {
  constructor(home) {
    const bus = JSON.parse(readFileSync(join(home, "bus.json"), "utf8"))
    this.router = new Dealer({ linger: 1000, receiveTimeout: 20 })
    this.xpub = new Subscriber({ linger: 0, receiveTimeout: 200 })
    for (const [socket, address] of [[this.router, bus.router], [this.xpub, bus.xpub]]) {
      if (bus.server_key) {
        const keys = JSON.parse(readFileSync(join(home, "keys", "local.json"), "utf8"))
        socket.curveServerKey = bus.server_key
        socket.curvePublicKey = keys.public_key
        socket.curveSecretKey = keys.secret_key
      }
      socket.connect(address)
    }
    this.calls = 0
  }

  async send(message) {
    await this.router.send(encode(message))
  }

  /** The next message, or null when none comes soon. */
  async receive() {
    try {
      const [frame] = await this.router.receive()
      return decode(frame)
    } catch (error) {
      if (error.code === "EAGAIN") return null
      throw error
    }
  }

  /** The result of a request that may be repeated without harm. */
  async ask(request, patience = 60_000) {
    const id = ++this.calls
    const end = Date.now() + patience
    while (Date.now() < end) {
      await this.send({ type: "call", id, protocol: PROTOCOL, request })
      for (const again = Date.now() + RESEND; Date.now() < again; ) {
        const answer = await this.receive()
        if (answer?.id !== id) continue
        if (answer.type === "reply") return answer.result
        throw new Error(`${answer.code}: ${answer.problem} ${answer.hint}`)
      }
    }
    throw new Error(`no answer to ${request.op}`)
  }

  close() {
    this.router.close()
    this.xpub.close()
  }
}

/** One source of events: numbers them, and keeps each until the broker has it for good. */
export class Publisher {
  constructor(connection, run) {
    this.connection = connection
    this.run = run
    this.source = randomUUID().replaceAll("-", "")
    this.kept = []
    this.first = 0 // the seq of kept[0]
    this.sent = 0 // the next seq to send
    this.welcome = false
    this.obeyed = new Set()
    this.heard = this.beaten = 0
  }

  publish(kind, fields) {
    const time = BigInt(Date.now()) * 1_000_000n
    this.kept.push(encode({ kind, run: this.run, source: this.source, seq: this.first + this.kept.length, time, ...fields }))
  }

  /** Send what is due and take what has come; returns the commands that are to be obeyed now. */
  async turn() {
    const now = Date.now()
    const silent = now - this.heard > RESEND
    if (!this.welcome && silent) {
      this.heard = now
      const hello = { source: this.source, run: this.run, name: "node", pid: process.pid, owner: true }
      await this.connection.send({ type: "hello", protocol: PROTOCOL, ...hello })
    } else if (this.kept.length > 0 && silent) {
      this.heard = now
      this.sent = this.first
    }
    if (this.welcome && now - this.beaten > 1000) {
      this.beaten = now
      await this.connection.send({ type: "beat", source: this.source })
    }
    while (this.welcome && this.sent < Math.min(this.first + this.kept.length, this.first + WINDOW)) {
      const start = this.sent - this.first
      const bodies = this.kept.slice(start, start + BATCH)
      await this.connection.send({ type: "events", source: this.source, first: this.sent, bodies })
      this.sent += bodies.length
    }
    const message = await this.connection.receive()
    return message ? this.hear(message) : []
  }

  hear(message) {
    this.heard = Date.now()
    if (["welcome", "ack", "rewind"].includes(message.type)) {
      this.welcome = true
      this.kept.splice(0, Math.max(0, message.expected - this.first))
      this.first = Math.max(this.first, message.expected)
      this.sent = message.type === "ack" ? Math.max(this.sent, this.first) : this.first
    } else if (message.type === "failure" && message.code === "hello") {
      this.welcome = false
      this.heard = 0
    } else if (message.type === "deliver") {
      const command = decode(message.body)
      if (!this.obeyed.has(command.id)) {
        this.obeyed.add(command.id)
        return [command]
      }
    }
    return []
  }

  /** Resolves when everything published so far is in the journal. */
  async flush() {
    while (this.kept.length > 0) await this.turn()
  }

  async bye() {
    await this.connection.send({ type: "bye", source: this.source })
  }
}

/** Every event of a run once, in order: history, then live, without a seam. Yields [offset, event]. */
export async function* read(connection, run, kinds) {
  const { xpub } = connection
  xpub.subscribe("~commit\0", ...kinds.map(kind => `${kind}.${run}\0`))
  const topics = kinds.map(kind => `${kind}.${run}`)
  const request = { op: "history", runs: [run], kinds }
  let after = -1
  let behind = true
  let fanout = new Map()
  while (true) {
    while (behind) {
      const page = await connection.ask({ ...request, after })
      for (const [offset, body] of page.events) yield [offset, decode(body)]
      after = page.next
      behind = !page.done
    }
    let frame
    try {
      ;[frame] = await xpub.receive()
    } catch (error) {
      if (error.code === "EAGAIN") continue
      throw error
    }
    const end = frame.indexOf(0)
    const topic = frame.subarray(0, end).toString()
    const payload = decode(frame.subarray(end + 1))
    if (topic !== "~commit") {
      fanout.set(topic, [...(fanout.get(topic) ?? []), ...payload[1]])
      continue
    }
    const [, previous, head, committed] = payload
    if (previous <= after && committed.filter(name => topics.includes(name)).every(name => fanout.has(name))) {
      const events = [...fanout.values()].flat().filter(([offset]) => offset > after)
      for (const [offset, body] of events.sort((a, b) => a[0] - b[0])) yield [offset, decode(body)]
      after = Math.max(after, head)
    } else {
      behind = true // a frame was lost: the journal has what it held
    }
    fanout = new Map()
  }
}
