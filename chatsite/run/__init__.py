"""The processes of `manage.py serve` (`make run`): the whole chat on one machine.

1. `startup` starts the store, the worker and the server processes in order, and prints the address.
2. `supervisor` keeps them running, passes on their output, and stops them in the reverse order.
3. `children` runs one command in a child process. After a crash, it finds the processes that are left.
4. `embedded_store` has the command line of the store, `server` of a server process. `assets` collects the static files.
"""
