"""The file in which a client writes each event at once: the drill judges by these files alone.

One JSON array a line, times in epoch ms:

| line                                                        | written when                                            |
|-------------------------------------------------------------|---------------------------------------------------------|
| `me`, user, name                                            | the first `welcome`                                     |
| `offered`, room, id, number, digest, at                     | put into the outbox; numbered by sender and room from 1 |
| `renewed`, room, id, id of the new one                      | too old to be repeated; offered again, same number      |
| `accepted`, room, id, epoch, seq, expires_at                | `sent`, or their own message arrived                    |
| `repeated`, room, id                                        | sent again: the store may have lost it after accepting  |
| `refused`, room, id, code                                   | a final error                                           |
| `held`, room, epoch, seq, id, digest, late (ms), expires_at | taken into the log: shown                               |
| `late`, room, epoch, seq, id, expires_at                    | taken into the log after it expired: not shown          |
| `dropped`, room, epoch                                      | the log was dropped for a new one with this epoch       |
| `acknowledged`, room, epoch, seq, at                        | handed to the socket: everything up to seq is held      |
| `closed`, at                                                | a connection ended                                      |
| `notice`, notice, kind, at, told, data                      | a notice arrived, once for each content; `told`: the    |
|                                                             | number of recipients in the receipts until then         |
| `overclaimed`, room, seq, told, held                        | a receipt counted more recipients than held it then     |
| `after_expiry`, room, seq, after (ms)                       | the text arrived after it had expired                   |
| `before_expiry`, room, seq, before (ms)                     | `expired` arrived before the end of the lifetime        |
| `disagreed`, text                                           | the server contradicted itself                          |
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


class Ledger:
    """The file of one client. Call `flush` before a frame to the server that depends on it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def write(self, kind: str, *fields: Any) -> None:
        self._file.write(_encoder.encode((kind, *fields)) + b"\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[list[Any]]:
    """Yield a ledger's lines in order."""
    with path.open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line)


def digest(body: str) -> str:
    """Return the digest that replaces a text in a ledger."""
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def now_ms() -> int:
    """Return the time of ledgers: epoch ms."""
    return time.time_ns() // 1_000_000
