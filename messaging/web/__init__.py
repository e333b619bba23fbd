"""The HTTP side of the chat.

1. `pages` serves the chat page and the check of a handshake.
2. `api` serves rooms, people and message details as JSON. `endpoint` handles login, request body and errors for every address.
3. `probes` serves health and metrics to machines.

Changes nothing itself: it calls `rooms` and the store.
"""
