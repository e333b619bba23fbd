"""The HTTP side of the chat.

1. `pages` serves the chat page, the check of a handshake, and the probes.
2. `api` serves rooms, people and message details as JSON. `endpoint` gives each address log-in, body and errors.

Changes nothing itself: it calls `rooms` and the store.
"""
