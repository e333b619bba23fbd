/** What processes use, from /proc: the server's and the store's. One that has ended counts no more. */
import { readFileSync } from "node:fs";

const TICKS_PER_S = 100;

function sum(pids, read) {
  let total = 0;
  for (const pid of pids)
    try {
      total += read(pid);
    } catch {
      continue; // ended
    }
  return total;
}

/** CPU seconds so far. */
export function cpuOf(pids) {
  const ticks = sum(pids, (pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").pop().split(" ");
    return +fields[11] + +fields[12];
  });
  return ticks / TICKS_PER_S;
}

/** Resident memory in bytes: each process's own pages, and its part of shared ones. */
export function memoryOf(pids) {
  return sum(pids, (pid) => 1_024 * +readFileSync(`/proc/${pid}/smaps_rollup`, "latin1").match(/^Pss:\s+(\d+)/m)[1]);
}

/** Seconds in which a core was busy so far, whoever used it. */
export function coreBusy(core) {
  const row = readFileSync("/proc/stat", "latin1").match(new RegExp(`^cpu${core} (.*)$`, "m"));
  const [user, nice, system, , , irq, softirq] = row[1].split(" ").map(Number);
  return (user + nice + system + irq + softirq) / TICKS_PER_S;
}
