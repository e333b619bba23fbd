"""The URLs of the chat. A URL with an invalid room, seq or user is answered with 404."""

from __future__ import annotations

from django.urls import path, register_converter

from .web import api, pages, probes


class RoomId:
    """A room's id."""

    regex = "[A-Za-z0-9_-]{1,32}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class Number:
    """A seq or a user id: at most 2^53-1, the largest integer that JSON represents exactly."""

    regex = "[0-9]{1,16}"

    def to_python(self, value: str) -> int:
        number = int(value)
        if number >= 2**53:
            raise ValueError(value)
        return number

    def to_url(self, value: int) -> str:
        return str(value)


register_converter(RoomId, "room")
register_converter(Number, "number")

urlpatterns = [
    path("", pages.chat, name="chat"),
    path("r/<room:room>/", pages.chat, name="room"),
    path("r/<room:room>/<number:seq>/", pages.chat, name="message"),
    path("ws/chat/check/", pages.check, name="check"),
    path("healthz", probes.healthz, name="healthz"),
    path("readyz", probes.readyz, name="readyz"),
    path("metrics", probes.metrics, name="metrics"),
    path("api/rooms/", api.rooms_view),
    path("api/rooms/public/", api.public_rooms_view),
    path("api/rooms/leave/", api.leave_many_view),
    path("api/rooms/<room:room>/", api.room_view),
    path("api/rooms/<room:room>/join/", api.join_view),
    path("api/rooms/<room:room>/leave/", api.leave_view),
    path("api/rooms/<room:room>/lifetimes/", api.lifetimes_view),
    path("api/rooms/<room:room>/shorten/", api.shorten_view),
    path("api/rooms/<room:room>/members/", api.members_view),
    path("api/rooms/<room:room>/members/<number:member>/", api.member_view),
    path("api/rooms/<room:room>/messages/<number:seq>/recipients/", api.recipients_view),
    path("api/direct/", api.direct_view),
    path("api/people/", api.people_view),
    path("api/notices/", api.notices_view),
    path("api/notices/<slug:notice>/missing/", api.missing_view),
]
