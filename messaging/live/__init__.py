"""The open sockets of one server process.

1. `messaging.consumers` authenticates a handshake (`directory`). The socket becomes a `Connection` in the `registry`.
2. `greeting` answers `hello`: a `Feed` for each room of the user, and `resumed` from the log (`reading`).
3. `sending` commits messages in groups, `acknowledging` merges acks, `changes` edits and deletes, `ephemeral` answers the rest.
4. The process subscribes to the rooms of its connections (`subscription`). `hub` gives each publication to the feeds of its room;
   the `writer` of each connection writes them to its socket. `positions` reveals lost publications.
5. The hub reports to `receipts`, `presence` and `retry`. `notifier` sends notices.
6. `rechecks`, `stuck_sockets` and `control_events` end or change connections that are open.
7. `server` builds these parts and starts them.

Others use `server`, `directory`, `metrics` and `origins`. Never imports jobs or admin: they meet in the store and in control events.
"""
