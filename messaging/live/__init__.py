"""The open sockets of one server process.

1. `messaging.consumers` authenticates a handshake (`directory`). The socket becomes a `Connection` in the `registry`.
2. `greeting` answers `hello`: a `Feed` for each room of the user, and a `resumed` from the log (`reading`).
3. `sending` stores messages in groups (`limits` and `store_shares` refuse some), `acknowledging` merges acks, `changes` edits and
   deletes messages, `ephemeral` answers `typing` and `ping`.
4. The process subscribes to the rooms of its connections (`subscription`). `hub` passes each publication to the feeds of its room, and
   the `writer` of each connection writes it to the socket. `positions` detects lost publications.
5. The hub reports to `receipts`, `presence` and `retry`. `notifier` sends notices.
6. `rechecks`, `stuck_sockets` and `control_events` end or change connections that are open.
7. `server` builds these parts and starts them.

Other packages use `server`, `directory`, `metrics` and `origins`. This package does not import jobs or admin: they communicate through
the store and control events.
"""
