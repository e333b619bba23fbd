"""The store's Lua scripts: load them, run several of them in one round trip, translate their errors.

Each script begins with LIFE, the run_id of the Redis server. A restarted or promoted server does not have these scripts: it answers
NOSCRIPT, and the scripts are loaded with the new run_id before anything is written. After LIFE come the files of `lua/shared/` that
the script names in its lines `-- Uses`. `-- Uses FILE: FUNCTION, ...` includes only these functions: each call of a script creates all of
its functions, which takes time. Knows no key and no operation.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from messaging.errors import BacklogFull, MessagingError, Unavailable

from . import connections

RETRY_AFTER_MS = 1_000

Call = tuple[str, tuple[Any, ...]]  # script, (partition prefix, arguments ...)

_CONNECTION_ERRORS = (RedisConnectionError, RedisTimeoutError, TimeoutError, OSError)
_FOLDER = Path(__file__).parent / "lua"
_USES = re.compile(r"^-- Uses (?:(\w+): )?(.+)$", re.MULTILINE)  # the file of the functions, or ''; names


def _shared(text: str, included: set[str]) -> str:
    """Return the shared files and functions that a script uses, each once and after those that it uses itself."""
    parts = []
    for file, names in _USES.findall(text):
        for name in names.split(", "):
            part = _function(file, name) if file else _shared_file(name)
            if part not in included:
                included.add(part)
                parts.append(_shared(part, included) + part)
    return "".join(parts)


def _shared_file(name: str) -> str:
    return (_FOLDER / "shared" / f"{name}.lua").read_text()


def _function(file: str, name: str) -> str:
    """Return one function of a shared file, in which blank lines separate the functions."""
    [function] = [part for part in _shared_file(file).split("\n\n") if f"local function {name}(" in part]
    return f"{function}\n"


def _whole_text(path: Path) -> str:
    text = path.read_text()
    shebang, rest = text.split("\n", 1)
    return f"{shebang}\n{_shared(text, set())}{rest}"


_TEXTS = {path.stem: _whole_text(path) for path in sorted(_FOLDER.glob("*.lua"))}

log = logging.getLogger(__name__)


class Scripts:
    """Runs scripts and commands on one store. Each call takes at most `deadline_s`."""

    def __init__(self, client: redis.asyncio.Redis, *, deadline_s: float) -> None:
        self.life = ""  # the server's run_id, once known
        self._client = client
        self._deadline_s = deadline_s
        self._pipelines = connections.PipelinePool(client)
        self._shas: dict[str, str] = {}
        self._loading = asyncio.Lock()

    async def run(self, calls: Sequence[Call], *, idempotent: bool = True) -> list[Any]:
        """Run scripts in one round trip. An error is in its place in the list: `Unavailable` if the result is unknown.

        Idempotent calls are repeated once, within the deadline, if the connection is lost.
        """
        answers: list[Any] = [Unavailable(retry_after_ms=RETRY_AFTER_MS)] * len(calls)
        pending = list(range(len(calls)))
        try:
            async with asyncio.timeout(self._deadline_s):
                for _ in range(3):
                    pending = await self._run_pending(calls, pending, answers, repeat=idempotent)
                    if not pending:
                        break
                    await self._load()
        except (*_CONNECTION_ERRORS, RedisError):
            pass  # RedisError: the store refused the scripts, for example while it loads its file
        return answers

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip. Raises Unavailable, and BacklogFull if the store is full."""
        try:
            async with asyncio.timeout(self._deadline_s):
                results = await self._execute(commands)
        except _CONNECTION_ERRORS as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault
        for result in results:
            if isinstance(result, Exception):
                raise _fault(result) from result
        return results

    async def known(self) -> None:
        """Make sure that `life` is known. Raises Unavailable."""
        if self.life:
            return
        try:
            await self._load()
        except (*_CONNECTION_ERRORS, RedisError) as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault

    async def _run_pending(
        self, calls: Sequence[Call], pending: list[int], answers: list[Any], *, repeat: bool
    ) -> list[int]:
        """Run the calls with these indexes and set their answers; return the indexes of calls whose script the store does not have."""
        if not self._shas:
            return pending
        commands = [("EVALSHA", self._shas[calls[i][0]], 1, *calls[i][1]) for i in pending]
        unknown = []
        for index, result in zip(pending, await self._execute(commands, repeat=repeat), strict=True):
            if isinstance(result, NoScriptError):
                unknown.append(index)
            else:
                answers[index] = _fault(result) if isinstance(result, Exception) else result
        return unknown

    async def _execute(self, commands: Sequence[tuple[Any, ...]], *, repeat: bool = True) -> list[Any]:
        try:
            return await self._pipelines.call(commands)
        except _CONNECTION_ERRORS:
            if not repeat:
                raise
            return await self._pipelines.call(commands)

    async def _load(self) -> None:
        """Read the server's run_id and load the scripts with it."""
        async with self._loading:
            info = await self._client.info("server")
            life = str(info["run_id"])
            pipeline = self._client.pipeline(transaction=False)
            for text in _TEXTS.values():
                pipeline.script_load(_with_life(text, life))
            shas = await pipeline.execute()
            self._shas = {
                name: str(sha, "ascii") if isinstance(sha, bytes) else sha
                for name, sha in zip(_TEXTS, shas, strict=True)
            }
            self.life = life


def _with_life(text: str, life: str) -> str:
    shebang, rest = text.split("\n", 1)
    return f"{shebang}\nlocal LIFE = '{life}'\n{rest}"


def _fault(error: Exception) -> MessagingError:
    """Translate an error of the store: it is full, or unavailable for now. Never a final error."""
    if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM"):
        return BacklogFull(retry_after_ms=5 * RETRY_AFTER_MS)
    if isinstance(error, RedisError):
        code = str(error).split(" ")[0]
        log.warning("the store refuses: %s", code)
        return Unavailable(f"The store refuses: {code}.", retry_after_ms=RETRY_AFTER_MS)
    raise error
