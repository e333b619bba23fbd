"""A separate store server, which a test may kill, and whose file it may damage."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import redis

from chatsite.run import embedded_store


class Server:
    """A separate server that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, ready: bool = True) -> None:
        binary = embedded_store.find_server()
        assert binary is not None
        command = [*embedded_store.command(binary, folder=self.folder, socket=self.socket), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if ready:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        assert embedded_store.wait_until_ready(self.url, deadline_s=20), (self.folder / "log").read_text()

    def wait_until_loading(self) -> None:
        ends_s = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < ends_s:
                try:
                    client.ping()
                except redis.BusyLoadingError:
                    return
                except redis.ConnectionError:
                    time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def cut_tail(self, size: int) -> None:
        [newest] = self.folder.glob("appendonlydir/*.incr.aof")
        assert newest.stat().st_size > size
        os.truncate(newest, newest.stat().st_size - size)
