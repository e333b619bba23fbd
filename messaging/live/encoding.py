"""Stored messages as frames of the wire contract, in answers of at most `max_bytes`."""

from __future__ import annotations

import dataclasses

from msgspec import UNSET

from messaging import protocol
from messaging.store.records import Page, Slice, Stored

MAX_GONE = 500  # rows in one answer

Encoded = tuple[str, Slice]  # a frame, and the part of the slice that it contains


def message_frame(
    room_id: str, epoch: str, stored: Stored, *, attempt: int | None = None
) -> protocol.Message:
    """Return a stored message as a frame. `attempt`: the number of the push, if it is pushed again."""
    return protocol.Message(
        room=room_id,
        epoch=epoch,
        seq=stored.seq,
        id=stored.id,
        from_=protocol.Person(stored.sender, stored.name),
        body=stored.body,
        sent_at=stored.sent_at,
        expires_at=stored.expires_at,
        reply_to=UNSET if stored.reply_to is None else stored.reply_to,
        edited_at=UNSET if stored.edited_at is None else stored.edited_at,
        resends=UNSET if stored.resends is None else stored.resends,
        attempt=UNSET if attempt is None else attempt,
    )


def encode_resumed(room_id: str, since: int, slice_: Slice, *, max_bytes: int) -> Encoded:
    """Return the `resumed` frame of a slice; if it would be too large, without the newest messages."""
    while True:
        encoded = protocol.encode(
            protocol.Resumed(
                room=room_id,
                epoch=slice_.epoch,
                ok=True,
                from_=since,
                upto=slice_.upto,
                top=slice_.top,
                rev=slice_.rev,
                more=slice_.more,
                messages=[message_frame(room_id, slice_.epoch, stored) for stored in slice_.messages],
                gone=slice_.gone[:MAX_GONE],
                changed=[message_frame(room_id, slice_.epoch, stored) for _, stored in slice_.changed],
                doubt=UNSET if slice_.doubt is None else slice_.doubt,
            )
        )
        if len(encoded) <= max_bytes or len(slice_.messages) + len(slice_.changed) <= 1:
            return encoded.decode(), slice_
        slice_ = _shorter(slice_, since)


def _shorter(slice_: Slice, since: int) -> Slice:
    """Omit the newest half of the messages. If there is at most one message, omit it and the newest half of the changes."""
    if len(slice_.messages) > 1 or not slice_.changed:
        kept = slice_.messages[: len(slice_.messages) // 2]
        upto = kept[-1].seq
        gone = [row for row in slice_.gone if row[0] <= upto]
        return dataclasses.replace(slice_, messages=kept, upto=upto, gone=gone, more=True)
    changed = slice_.changed[: max(1, len(slice_.changed) // 2)]
    gone = [row for row in slice_.gone if row[0] <= since]
    return dataclasses.replace(
        slice_, messages=[], upto=since, gone=gone, changed=changed, rev=changed[-1][0], more=True
    )


def refused_read(
    room_id: str, epoch: str | None, since: int, *, why: str, top: int = 0, rev: int = 0
) -> protocol.Resumed:
    """Return the `resumed` frame for a read that cannot be answered."""
    return protocol.Resumed(
        room=room_id,
        epoch=epoch,
        ok=False,
        from_=since,
        upto=top,
        top=top,
        rev=rev,
        more=False,
        messages=[],
        gone=[],
        changed=[],
        why=why,
    )


def encode_history(room_id: str, before: int, page: Page, *, max_bytes: int) -> str:
    """Return the `history` frame of a page; if it would be too large, without the oldest messages."""
    messages, more = page.messages, page.more
    while True:
        encoded = protocol.encode(
            protocol.Messages(
                room=room_id,
                epoch=page.epoch,
                before=before,
                messages=[message_frame(room_id, page.epoch, stored) for stored in messages],
                more=more,
            )
        )
        if len(encoded) <= max_bytes or len(messages) <= 1:
            return encoded.decode()
        messages, more = messages[len(messages) // 2 :], True
