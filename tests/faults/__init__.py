"""Faults: the processes of a site behind lines that fail, clients with an outbox and a ledger, and one judge.

1. `cluster` runs server processes, a worker, a store and a database, each behind its own line (`tests.support.lines`).
2. `load` lets clients of the drill chat, and knows when every message is explained.
3. `scenarios` injects one fault each, or checks one rule with its own users. `pairs` draws two faults at random.
4. `judge` reads the ledgers and counts. Its rules are those of the drill, by id, because a store that lost data begins new logs.
5. `mutations` takes one rule of the code away in a site's processes, so that a named scenario must fail.
6. `python -m tests.faults` runs scenarios and prints the table (`make faults`).
"""
