"""The proof anybody can run: a site of its own, clients behind bad lines, kills, and a look at who holds what in the end.

`run` conducts -> `instance` is the site, known by `serve`, its processes and its addresses only -> `client` keeps the contract
(docs/protocol.md) -> `faults` loses, doubles and reorders its frames -> `ledger` is what each client wrote down on disk ->
`books` reads all of it -> `report` and, where lives were short, `misses` judge that. Nothing here knows how the server works: what it got wrong, the drill would get wrong too.
"""
