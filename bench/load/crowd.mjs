/**
 * What many or late clients cost: `node crowd.mjs PLAN.json` prints one JSON object.
 *
 * Plan: {mode, port, room: {id, members: [{cookie}]}, connections, messages, calm_ms, pids}. Modes: `storm`: after `calm_ms` everybody comes
 * back at once and has missed `messages`, which the room holds already; `backlog`: one client has missed them; `idle`: `connections` sockets, up to 20 a user, do nothing.
 */
import { readFileSync } from "node:fs";
import { ChatClient } from "./chat.mjs";
import { cpuOf, memoryOf } from "./proc.mjs";

const PER_USER = 20;
const AT_ONCE = 50;
const LOOK_MS = 50;
const IDLE_MS = 3_000;
const DEADLINE_MS = 80_000;

const plan = JSON.parse(readFileSync(process.argv[2]));
const until = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const memory = () => memoryOf(plan.pids);
const cpu = () => cpuOf(plan.pids);

function client(cookie, on = {}) {
  const handlers = { delivered() {}, answered() {}, failed(what) { throw new Error(what); }, closed() {}, synced() {}, ...on };
  return new ChatClient({ port: plan.port, room: plan.room.id, cookie, on: handlers });
}

/** Connect and read everything; resolves with the ms that it took. */
async function catchUp(cookie) {
  const started = performance.now();
  let held = 0;
  const reader = client(cookie, { delivered: () => held++ });
  await reader.ready();
  if (held < plan.messages) throw new Error(`${held} of ${plan.messages} came`);
  return performance.now() - started;
}

async function storm() {
  await until(plan.calm_ms);
  const cpuBefore = cpu();
  const began_ms = Date.now();
  const started = performance.now();
  const took = await Promise.all(plan.room.members.slice(1).map(({ cookie }) => catchUp(cookie)));
  took.sort((a, b) => a - b);
  const at = (share) => Math.round(took[Math.floor(share * (took.length - 1))]);
  return { began_ms, clients: took.length, p50_ms: at(0.5), p99_ms: at(0.99), all_ms: Math.round(performance.now() - started), cpu_s: +(cpu() - cpuBefore).toFixed(2) };
}

async function backlog() {
  const before = memory();
  let most = before;
  const watch = setInterval(() => (most = Math.max(most, memory())), LOOK_MS);
  const ms = await catchUp(plan.room.members[1].cookie);
  clearInterval(watch);
  return { messages: plan.messages, messages_s: Math.round(plan.messages / (ms / 1_000)), memory_growth_kb: Math.round((most - before) / 1_024) };
}

async function idle() {
  const cookies = Array.from({ length: plan.connections }, (_, i) => plan.room.members[Math.floor(i / PER_USER) % plan.room.members.length].cookie);
  await client(cookies[0]).ready();
  const before = memory();
  for (let i = 1; i < cookies.length; i += AT_ONCE) await Promise.all(cookies.slice(i, i + AT_ONCE).map((cookie) => client(cookie).ready()));
  const used = memory() - before;
  const cpuBefore = cpu();
  await until(IDLE_MS);
  return { connections: cookies.length, kb_each: +(used / 1_024 / (cookies.length - 1)).toFixed(1), cpu: +((cpu() - cpuBefore) / (IDLE_MS / 1_000)).toFixed(2) };
}

const late = setTimeout(() => {
  console.error("not done within the deadline");
  process.exit(1);
}, DEADLINE_MS);
const report = await { storm, backlog, idle }[plan.mode]();
clearTimeout(late);
console.log(JSON.stringify(report));
process.exit(0);
