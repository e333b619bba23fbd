/**
 * Talk at a steady rate until told to stop: `node steady.mjs PLAN.json` prints one JSON object.
 *
 * Plan: {port, rooms: [{id, members: [{cookie}]}], senders, rate, stop}. The first `senders` of each room send in turn, `rate` messages a
 * second together, until the file `stop` exists. The report has a row for each message: [epoch ms when sent, ms to its answer, ms until the last
 * member of its room had it]; null is what never came.
 */
import { existsSync, readFileSync } from "node:fs";
import { ChatClient } from "./chat.mjs";
import { Ledger, bodyOf } from "./ledger.mjs";

const CONNECTING_AT_ONCE = 25;
const DRAIN_MS = 8_000;

const plan = JSON.parse(readFileSync(process.argv[2]));
const ledger = new Ledger();
const rooms = [];
const senders = [];
const rows = [];
let closed = 0;
let syncs = 0;

const until = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const round = (ms) => +ms.toFixed(2);

function member(room, accounts, index, cookie) {
  const account = ledger.open({ room: room.id, sender: index, probe: false });
  account.rows = []; // of its own messages: the row of the report, and how many members lack it
  account.members = room.members.length;
  accounts.push(account);
  if (index < plan.senders) senders.push(account);
  account.client = new ChatClient({
    port: plan.port,
    room: room.id,
    cookie,
    on: {
      delivered: (body) => delivered(account, body, accounts),
      answered: (number) => answered(account, number),
      failed: (what) => ledger.failed(what),
      closed: () => closed++,
      synced: () => syncs++,
    },
  });
  return account.client.ready();
}

function post(account) {
  const number = ledger.sent(account);
  const row = [Math.round(performance.timeOrigin + account.sentAt[number]), null, null];
  account.rows.push({ row, lack: account.members });
  rows.push(row);
  account.client.send(number, bodyOf(account.sender, number));
}

function answered(account, number) {
  ledger.answered(account, number);
  account.rows[number].row[1] = round(performance.now() - account.sentAt[number]);
}

function delivered(account, body, accounts) {
  const [sender, number] = ledger.delivered(account, body, accounts);
  if (sender === undefined) return;
  const message = accounts[sender].rows[number];
  if (--message.lack === 0) message.row[2] = round(performance.now() - accounts[sender].sentAt[number]);
}

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

const started = performance.now();
let posted = 0;
const timer = setInterval(() => {
  const due = ((performance.now() - started) / 1_000) * plan.rate;
  while (posted < due) post(senders[posted++ % senders.length]);
}, 2);
while (!existsSync(plan.stop)) await until(100);
clearInterval(timer);
const ends = performance.now() + DRAIN_MS;
const unanswered = () => rows.filter((row) => row[1] === null).length;
while ((unanswered() || ledger.missing(rooms)) && performance.now() < ends) await until(20);

const { twice, unordered, errors } = ledger.report(1);
const report = { rows, missing: ledger.missing(rooms), unanswered: unanswered(), twice, unordered, errors, closed, syncs };
process.stdout.write(JSON.stringify(report), () => process.exit(0)); // a pipe takes 64 KB at once
