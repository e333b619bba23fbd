"""Publications of a room's channel, parsed once for all sockets of the process.

A publication is one of:
- messages: `M <epoch>`, then two lines for each message: `<seq> <after> <sender> <only|->` and its frame;
- a change: `C <epoch>`, then `<rev> <seq> <sender> <only|->` and its frame;
- expired messages: `X <epoch> <seq,...>`;
- cursors that moved: `A <seq>` if each of them was at this seq or above, `A` if they may have been anywhere;
- a user who is typing: `T <user>`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec

from messaging import protocol

MAX_BATCH_CHARACTERS = 32_768  # a batch is a part of one array, which is limited in bytes


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive `message` frames of one room, joined by commas in `text`.

    They are for all members if `only` is None, otherwise for the users in `only` and the sender.
    """

    epoch: str
    after: int
    last: int
    count: int
    text: str
    senders: frozenset[int]
    only: frozenset[int] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """An `edited` or `deleted` frame as `text`. `bare` is the frame with only seq and rev, for members who cannot see the message."""

    epoch: str
    rev: int
    seq: int
    sender: int
    text: str
    bare: str
    only: frozenset[int] | None = None


def parse_change(room: str, text: str) -> Change:
    """Parse a `C` publication."""
    first, header, frame = text.split("\n", 2)
    epoch = first[2:]
    rev, seq, sender, only = header.split(" ")
    bare = protocol.encode(protocol.Edited(room=room, epoch=epoch, rev=int(rev), seq=int(seq))).decode()
    recipients = None if only == "-" else frozenset(map(int, only.split(",")))
    return Change(epoch, int(rev), int(seq), int(sender), frame, bare, recipients)


def parse_batches(text: str) -> Iterator[Batch]:
    """Parse an `M` publication into batches. Consecutive messages for all members share a batch; one for some members is separate."""
    lines = text.split("\n")
    epoch = lines[0][2:]
    frames: list[str] = []
    senders: set[int] = set()
    size = after = last = 0
    for header, frame in zip(lines[1::2], lines[2::2], strict=True):
        seq_text, after_text, sender_text, only_text = header.split(" ")
        seq, before, sender = int(seq_text), int(after_text), int(sender_text)
        if frames and (only_text != "-" or before != last or size + len(frame) > MAX_BATCH_CHARACTERS):
            yield Batch(epoch, after, last, len(frames), ",".join(frames), frozenset(senders))
            frames, senders, size = [], set(), 0
        if only_text != "-":
            only = frozenset(map(int, only_text.split(",")))
            yield Batch(epoch, before, seq, 1, frame, frozenset((sender,)), only)
            continue
        if not frames:
            after = before
        frames.append(frame)
        senders.add(sender)
        size += len(frame)
        last = seq
    if frames:
        yield Batch(epoch, after, last, len(frames), ",".join(frames), frozenset(senders))
