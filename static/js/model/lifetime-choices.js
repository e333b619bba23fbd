/** The lifetimes that a message can be given, and how long an extension is. All in seconds. */

export const PRESETS = [30, 300, 3600, 28_800, 86_400, 604_800, 2_419_200];

/**
 * The entries of the lifetime menu, ascending: the presets from the shortest allowed on, the room's own and the longest allowed.
 *
 * @param {{own: number, least: number, longest: number}} bounds
 * @returns {{seconds: number, allowed: boolean, note: "over" | "own" | "longest" | null}[]}
 */
export function choices({ own, least, longest }) {
  return [...new Set([...PRESETS, own, longest])]
    .filter((seconds) => seconds >= least)
    .sort((a, b) => a - b)
    .map((seconds) => ({
      seconds,
      allowed: seconds <= longest,
      note: seconds > longest ? "over" : seconds === own ? "own" : seconds === longest ? "longest" : null,
    }));
}

/** The presets up to `longest`, and `current` even when it is none of them. @param {{current: number, longest: number}} bounds */
export function presetsUpTo({ current, longest }) {
  return [...new Set([...PRESETS.filter((seconds) => seconds <= longest), current])].sort((a, b) => a - b);
}

/**
 * An extension by the length of the message's own life, within the longest allowed. by: the time that the user sees. ttl: the new
 * lifetime from now on.
 *
 * @param {{sent_at: number, expires_at: number}} message  epoch ms
 * @param {{now: number, longest: number}} bounds  now: epoch ms
 */
export function extensionOf({ sent_at, expires_at }, { now, longest }) {
  const own = Math.max(1, Math.round((expires_at - sent_at) / 1000));
  const left = Math.max(0, Math.round((expires_at - now) / 1000));
  const by = own >= 3600 ? Math.round(own / 3600) * 3600 : own;
  return { by, ttl: Math.min(longest, left + by) };
}
