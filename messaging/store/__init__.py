"""The message store: the only package that knows Redis, its keys and its Lua scripts. It is the truth; what is pushed to sockets is a hint.

All keys of a room and the due-sets of its partition share the hash tag `{p}`, so each script touches one slot.

| key (prefix `chat:{p}:`)     | type   | holds                                                                              |
|------------------------------|--------|------------------------------------------------------------------------------------|
| `room:<id>`                  | hash   | epoch, top, rev, members (counts joins and leaves), top_life, rev_life; no TTL      |
| `room:<id>:msg:<seq>`        | hash   | the message; expires at expires_at + grace                                          |
| `room:<id>:live`             | zset   | `seq|sender|id` (`|u`: nobody owes it) -> seq; gone only by finalize and delete     |
| `room:<id>:only`             | hash   | seq -> user ids, for a resend to some                                               |
| `room:<id>:delivered` `:read`| zset   | user -> cumulative cursor; only ever raised                                         |
| `room:<id>:joined`           | zset   | user -> top when joining; owes what came after                                      |
| `room:<id>:outcome`          | zset   | seq -> `seq|user|reason|attempts`: does not hold it though the cursor passes it     |
| `room:<id>:left`             | zset   | `user|joined|cursor` -> top when leaving                                            |
| `room:<id>:changed`          | zset   | seq -> rev of its last edit, delete or extend                                       |
| `room:<id>:attempts`         | hash   | user -> `n|first_at|next_at|reason`: connected laggards only                        |
| `sent:<room>:<user>:<id>`    | string | the first answer to a message id for `id_life_s`; both packed (`Remembered`)        |
| `expiring`                   | zset   | `room|seq` -> when the job looks next                                               |
| `over`                       | zset   | `room|seq` -> seq: in `expiring` although no longer live, for screens may show it   |
| `unacked`                    | zset   | room -> when the sweep looks next                                                   |
| `claim:<token>`              | string | the answer to a claim, for one lease                                                |
| `counts:hour:<hour>`         | hash   | `minute|what`, `all|what` -> how often, 49 h; hours and minutes since 1970          |
| `counts:days:<30 days>`      | hash   | `day|what` -> how often, 121 days; `held`, `deleted` by the day of acceptance       |

Outside the partitions: `chat:online` (zset, process -> until when it counts), `chat:online:<process>` (set of users) and
`chat:jobs` (hash, job -> its last run as JSON).

A message's way through here: append (numbered, stored, published) -> read_after, history (readers) -> acknowledge (cursors rise)
-> at its end claim_expired, expired (who missed it), finalize. Each verb is one script in `lua/`, its caller in one of the
modules of this package. A room's channel is named as its key and carries `M` (messages), `C` (edited, deleted), `X` (expired), `A`
(cursors moved) and `T` (typing); see `hub`.

A sequence number is never given twice: the scripts' text carries the store's `run_id` as LIFE, so a restarted or promoted store
answers NOSCRIPT, the loader reads the new run_id, and the first append in each room skips `top` ahead.
"""

from .log import Store, clock_ms, open_store

__all__ = ["Store", "clock_ms", "open_store"]
