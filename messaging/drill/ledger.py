"""What a client wrote down on disk, as it happened: the drill judges by these files alone.

One JSON array a line, times in epoch ms:

| line                                                        | when                                                    |
|-------------------------------------------------------------|---------------------------------------------------------|
| `offered`, room, id, number, digest, at                     | put into the outbox; numbered by sender and room from 1 |
| `accepted`, room, id, epoch, seq                            | `sent`, or one's own message came back                  |
| `refused`, room, id, code                                   | a final error                                           |
| `held`, room, epoch, seq, id, digest, late (ms)             | taken into the log: shown                               |
| `dropped`, room, epoch                                      | the log began anew with this epoch                      |
| `acknowledged`, room, epoch, seq                            | said to hold everything up to seq                       |
| `overclaimed`, room, seq, told, held                        | a receipt told of more recipients than held it then     |
| `disagreed`, text                                           | the server contradicted itself                          |
"""

from __future__ import annotations

import hashlib
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
