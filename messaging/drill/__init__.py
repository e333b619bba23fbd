"""A proof that anybody can run: a separate site, clients on unreliable connections, killed processes, and a check at the end.

The package must not know how the server works: a shared mistake would not be found. It uses the commands, addresses and sockets.

1. `run` runs a `plan` on an `instance`: a site with its own data, known only by its processes and addresses.
2. `protocol` is a client that follows the contract (docs/protocol.md), with an `outbox` and an `own_log`, over a `line`. `client` adds the part of the
   drill, and `faults` loses, duplicates and reorders the frames. The clients of the tests use `protocol` too.
3. `ledger` is the file in which each client writes what happened.
4. `books` reads all ledgers. `report`, and `misses` where lifetimes are short, judge them.
"""
