"""The open sockets of one server process.

1. A handshake is authenticated from the session (`directory`). The socket becomes a `Connection` with one feed for each room.
2. `delivery` answers its frames: hello, send, acknowledge, sync, history. `changes` answers those that change a message.
3. The process subscribes to the rooms of its connections (`subscription`). `hub` gives each publication to the feeds of its room.
4. `receipts` tells senders who holds their messages, `presence` who is online, `notifier` what they must be told.
5. `retry` pushes again when a client does not acknowledge.
6. `server` builds these parts and handles control events.

Never imports jobs or admin: they meet in the store and in control events.
"""
