"""The message store: the only package that knows Redis, its keys and its Lua scripts.

The store is authoritative: a push to a socket may be lost, and the client then reads the store. All keys of a room and the indexes of
its partition share the hash tag `{p}`, so the keys of a script are in one slot. KEYS[1] of a script is the partition's prefix, with
which all these keys begin, because many keys are known only inside the script.

| key (prefix `chat:{p}:`)     | type   | holds                                                                              |
|------------------------------|--------|------------------------------------------------------------------------------------|
| `room:<id>`                  | hash   | epoch, top, rev, members (counts joins and leaves), top_life, rev_life, life_top,   |
|                              |        | life_first, incident, doubt; no TTL                                                 |
| `room:<id>:msg:<seq>`        | hash   | the message; deleted by Redis at expires_at + grace                                 |
| `room:<id>:live`             | zset   | `seq|sender|id` (`|u`: nobody owes it) -> seq; removed by finalize and delete only  |
| `room:<id>:only`             | hash   | seq -> user ids, for a message to some members only (a resend)                      |
| `room:<id>:delivered` `:read`| zset   | user -> cumulative cursor; never lowered                                            |
| `room:<id>:joined`           | zset   | user -> top when they joined: they owe the later messages                           |
| `room:<id>:outcome`          | zset   | `seq|user|reason|attempts` -> seq: not held, even if the cursor is above            |
| `room:<id>:left`             | zset   | `user|joined|cursor` -> top when they left                                          |
| `room:<id>:changed`          | zset   | seq -> rev of its last edit, delete or extend                                       |
| `room:<id>:attempts`         | hash   | user -> `n|first_at|next_at|reason`: lagging members only                           |
| `sent:<room>:<user>:<id>`    | string | the first answer to a message id, for `id_life_s`; packed (`IdempotencyRecord`)     |
| `expiring`                   | zset   | `room|seq` -> when the job processes it next                                        |
| `over`                       | zset   | `room|seq` -> seq: in `expiring` although not live, because screens may show it     |
| `unacked`                    | zset   | room -> when the sweep checks it next                                               |
| `mark`                       | hash   | number, at, life: written every minute, to notice when the store went back          |
| `claim:<token>`              | string | the answer to a claim, for one lease                                                |
| `counts:hour:<hour>`         | hash   | `minute|event`, `all|event` -> count, 49 h; hours and minutes since 1970            |
| `counts:days:<30 days>`      | hash   | `day|event` -> count, 121 days; `held`, `deleted` by the day of acceptance          |

Outside the partitions: `chat:online` (zset, process -> the time until which its set is valid), `chat:online:<process>` (set of users)
and `chat:jobs` (hash, job -> its last run as JSON).

The life of a message: append (number, store, publish) -> read_after, history (members read it) -> acknowledge (cursors rise)
-> after its expiry: claim_expired, read (the members who missed it), finalize_expired. Most operations are
one script in `lua/`; lists and counts are read with plain commands. The values with several fields (`seq|sender|id`) are parsed only in
`entries.py` and `lua/shared/entries.lua`.

The pub/sub channel of a room has the name of its key. It carries `M` (messages), `C` (edited, deleted), `X` (expired), `A` (cursors
moved), `T` (typing) and `E` (a new epoch); `messaging.live.hub` receives them.

A sequence number is never given twice. The text of the scripts contains the store's `run_id` as LIFE, so a restarted or promoted
store answers NOSCRIPT, the loader reads the new run_id, and the first append in each room increases `top` by a large step.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable

import redis.asyncio

from messaging import policy as policies
from messaging.errors import Unavailable

from . import connections
from .calls import Calls
from .changes import Changes
from .cursors import Cursors
from .expiry import Expiry
from .lists import Lists
from .log import Log
from .marks import Marks
from .members import Members, members_in_database
from .presence import Presence
from .retries import Retries
from .scripts import Scripts
from .stats import Stats


class Store:
    """One store. Each attribute has the operations on one subject. They raise `Unavailable` if the store does not answer in time."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        policy: policies.Policy,
        *,
        members_of: Callable[[str], Awaitable[list[int]]] = members_in_database,
    ) -> None:
        calls = self._calls = Calls(client, policy)
        self.members = Members(calls, members_of)
        self.log = Log(calls, self.members)
        self.cursors = Cursors(calls, self.members)
        self.changes = Changes(calls, self.members)
        self.expiry = Expiry(calls)
        self.retries = Retries(calls)
        self.stats = Stats(calls)
        self.marks = Marks(calls, self.members)
        self.lists = Lists(calls)
        self.presence = Presence(calls)

    @property
    def client(self) -> redis.asyncio.Redis:
        return self._calls.client

    @property
    def policy(self) -> policies.Policy:
        return self._calls.policy

    @property
    def scripts(self) -> Scripts:
        return self._calls.scripts

    @property
    def life(self) -> str:
        """Return the server's run_id; empty until the scripts were loaded."""
        return self._calls.scripts.life

    async def now_ms(self) -> int:
        """Return the store's clock in epoch ms."""
        return await self._calls.now_ms()

    async def ping(self) -> None:
        """Raise `Unavailable` unless the store answers; afterwards `life` is known."""
        await self._calls.ping()


_stores: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Store] = weakref.WeakKeyDictionary()


def open_store() -> Store:
    """Return the store of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _stores:
        _stores[loop] = Store(connections.async_client(), policies.current())
    return _stores[loop]


async def clock_ms() -> int:
    """Return the store's time; this machine's time if the store does not answer, because a room can be changed without the store."""
    try:
        return await open_store().now_ms()
    except Unavailable:
        return round(time.time() * 1000)
