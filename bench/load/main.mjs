/**
 * The load generator: `node main.mjs PLAN.json` prints one JSON object.
 *
 * Plan: {system: chat|spike|echo|socketio|mqtt, port, rooms: [{id, members: [{cookie}]}], senders, window, rate?, warm_s, seconds,
 * pids: {name: [pid]}, core?, stalled?}. Closed loop: each of a room's first `senders` members keeps `window` messages
 * under way; one is under way until it is answered and has come back to its sender as everybody got it, so that nobody gains by
 * answering ahead of delivering. With `rate` messages a second go out whatever comes back. What never came is a fault of the system, said in the report.
 */
import { readFileSync } from "node:fs";
import { ChatClient } from "./chat.mjs";
import { EchoClient } from "./echo.mjs";
import { Ledger, bodyOf } from "./ledger.mjs";
import { MqttClient } from "./mqtt.mjs";
import { coreBusy, cpuOf, memoryOf } from "./proc.mjs";
import { SocketIoClient } from "./socketio.mjs";
import { SpikeClient } from "./spike.mjs";

const CLIENTS = { chat: ChatClient, spike: SpikeClient, echo: EchoClient, socketio: SocketIoClient, mqtt: MqttClient };
const CONNECTING_AT_ONCE = 25;
const PROBE_EVERY = 10; // one member in so many measures the way to it
const UNANSWERED_MS = 3_000; // then it counts as lost, and the next one goes out
const DRAIN_MS = 8_000;
const QUIET_MS = 2_000; // when nothing has come for so long, what is missing does not come

const plan = JSON.parse(readFileSync(process.argv[2]));
const ledger = new Ledger();
const rooms = [];
const senders = [];
let sending = false;
let closed = 0;
let syncs = 0;
let unanswered = 0;

const until = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Wait until everything came, or nothing comes any more. */
async function drained() {
  const ends = performance.now() + DRAIN_MS;
  let last = performance.now();
  let came = ledger.came;
  while (performance.now() < ends && performance.now() - last < QUIET_MS) {
    if (senders.every((account) => !account.waiting.size) && !ledger.missing(rooms)) return;
    await until(20);
    if (ledger.came !== came) last = performance.now();
    came = ledger.came;
  }
}

function member(room, accounts, index, cookie) {
  const reads = index < room.members.length - (plan.stalled ?? 0);
  const probe = reads && (index % PROBE_EVERY === PROBE_EVERY - 1 || room.members.length < PROBE_EVERY);
  const account = ledger.open({ room: room.id, sender: index, probe });
  accounts.push(account);
  account.waiting = new Map(); // number -> what it still waits for: the answer, its own delivery
  const client = new CLIENTS[plan.system]({
    port: plan.port,
    room: room.id,
    cookie,
    on: {
      sender: index,
      delivered: (body) => delivered(account, body, accounts),
      answered: (number) => answered(account, number),
      failed: (what) => ledger.failed(what),
      closed: () => closed++,
      synced: () => syncs++,
    },
  });
  account.client = client;
  if (index < plan.senders) senders.push(account);
  return client.ready();
}

function post(account) {
  const number = ledger.sent(account);
  account.waiting.set(number, 2);
  account.client.send(number, bodyOf(account.sender, number));
}

function answered(account, number) {
  if (!account.waiting.has(number)) return;
  ledger.answered(account, number);
  done(account, number);
}

function delivered(account, body, accounts) {
  const [sender, number] = ledger.delivered(account, body, accounts);
  if (sender === account.sender) done(account, number);
  return [sender, number];
}

function done(account, number) {
  const waitsFor = account.waiting.get(number) - 1;
  if (waitsFor > 0) account.waiting.set(number, waitsFor);
  else if (account.waiting.delete(number) && sending && !plan.rate) post(account);
}

/** A system that loses the answer must not stop the loop: the message counts as lost and another one goes. */
function replaceUnanswered() {
  const before = performance.now() - UNANSWERED_MS;
  for (const account of senders)
    for (const number of account.waiting.keys())
      if (account.sentAt[number] < before) {
        account.waiting.delete(number);
        unanswered++;
        if (sending && !plan.rate) post(account);
      } else break;
}

async function connectAll() {
  let connecting = [];
  for (const room of plan.rooms) {
    const accounts = [];
    rooms.push(accounts);
    for (const [index, { cookie }] of room.members.entries()) {
      connecting.push(member(room, accounts, index, cookie));
      if (connecting.length < CONNECTING_AT_ONCE) continue;
      await Promise.all(connecting);
      connecting = [];
    }
  }
  await Promise.all(connecting);
}

function begin() {
  sending = true;
  if (!plan.rate) {
    for (const account of senders) for (let i = 0; i < plan.window; i++) post(account);
    return null;
  }
  const started = performance.now();
  let posted = 0;
  return setInterval(() => {
    const due = ((performance.now() - started) / 1_000) * plan.rate;
    while (posted < due) post(senders[posted++ % senders.length]);
  }, 2);
}

function cpuNow() {
  const own = process.cpuUsage();
  const seconds = { generator: (own.user + own.system) / 1e6 };
  for (const [name, pids] of Object.entries(plan.pids ?? {})) seconds[name] = cpuOf(pids);
  if (plan.core !== undefined) seconds.core = coreBusy(plan.core);
  return seconds;
}

const share = (before, after, elapsedS) =>
  Object.fromEntries(Object.keys(after).map((name) => [name, +((after[name] - before[name]) / elapsedS).toFixed(2)]));

await connectAll();
const memoryBefore = memoryOf(plan.pids?.server ?? []);
const stalled = plan.stalled ? rooms.flatMap((accounts) => accounts.slice(-plan.stalled)) : [];
for (const account of stalled) account.client.pause();
const timer = begin();
const watch = setInterval(replaceUnanswered, 500);
await until(plan.warm_s * 1_000);
const before = cpuNow();
const started = performance.now();
ledger.measuring = true;
await until(plan.seconds * 1_000);
ledger.measuring = false;
const elapsedS = (performance.now() - started) / 1_000;
const cpu = share(before, cpuNow(), elapsedS);
const grown = memoryOf(plan.pids?.server ?? []) - memoryBefore;
sending = false;
clearInterval(timer);
for (const account of stalled) account.client.resume();
await drained();
clearInterval(watch);
console.log(
  JSON.stringify({
    connections: rooms.flat().length,
    sent: senders.reduce((sum, account) => sum + account.sentAt.length, 0),
    ...ledger.report(elapsedS),
    missing: ledger.missing(rooms),
    unanswered: unanswered + senders.reduce((sum, account) => sum + account.waiting.size, 0),
    closed,
    syncs,
    memory_growth_kb: Math.round(grown / 1_024),
    cpu,
    generator_is_the_limit: cpu.generator >= 0.9,
  }),
);
process.exit(0);
