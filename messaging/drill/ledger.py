"""What a client wrote down on disk, as it happened: the drill judges by these files alone.

One JSON array a line, times in epoch ms:

| line                                                        | when                                                    |
|-------------------------------------------------------------|---------------------------------------------------------|
| `me`, user, name                                            | the first `welcome`                                     |
| `offered`, room, id, number, digest, at                     | put into the outbox; numbered by sender and room from 1 |
| `renewed`, room, id, id of the new one                      | too old to be repeated; offered again with its number   |
| `accepted`, room, id, epoch, seq, expires_at                | `sent`, or one's own message came back                  |
| `refused`, room, id, code                                   | a final error                                           |
| `held`, room, epoch, seq, id, digest, late (ms), expires_at | taken into the log: shown                               |
| `late`, room, epoch, seq, id, expires_at                    | taken into the log after its life: not shown            |
| `dropped`, room, epoch                                      | the log began anew with this epoch                      |
| `acknowledged`, room, epoch, seq, at                        | handed to the socket: everything up to seq is held      |
| `closed`, at                                                | a connection ended                                      |
| `notice`, notice, kind, at, told, data                      | told what expired unheld, each content once; `told`:    |
|                                                             | to how many the receipts said it was delivered          |
| `overclaimed`, room, seq, told, held                        | a receipt told of more recipients than held it then     |
| `after_expiry`, room, seq, after (ms)                       | the text came so long after its life                    |
| `before_expiry`, room, seq, before (ms)                     | `expired` came so long before the end of its life       |
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
    """One client's file. `flush` before anything is said to the server that rests on it."""

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
    """Return what stands for a text in a ledger."""
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def now_ms() -> int:
    """Return the time as the ledgers say it."""
    return time.time_ns() // 1_000_000
