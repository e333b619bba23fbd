"""Read and check the environment. An invalid value is an error that names its variable.

| variable | default |
|---|---|
| SITE_URL | `http://127.0.0.1:8000,http://localhost:8000`; with `serve`, its port |
| DJANGO_SECRET_KEY | for `manage.py` commands: the key in `DATA_DIR/secret-key` |
| DJANGO_DEBUG | off |
| DATABASE_URL | SQLite in `DATA_DIR` |
| REDIS_URL | the embedded store's socket in `DATA_DIR` |
| STORE_MEMORY | half of the memory that is available when `serve` starts |
| DATA_DIR | `var/` next to `manage.py` |
| EMAIL_URL | e-mail is printed, not sent |
| DEFAULT_FROM_EMAIL | `chat@` and the host of the site |
| TRUSTED_PROXY_COUNT | 1 for an https site, otherwise 0 |
| SIGN_UP | on; off: only staff create accounts |
| METRICS_TOKEN | empty: only this machine may read `/metrics` |
| MESSAGING_RATE_LIMIT_SCALE | 1 |
| MESSAGING_RECOVERY | on; off is only for `manage.py drill --without-recovery` |

`manage.py` uses this module before it loads the settings, and so do the settings. It must not import Django's settings.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import stat
import sys
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit

import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

# A unix socket's path has room for 108 bytes with its closing zero (sys/un.h); 104 on BSD.
MAX_SOCKET_PATH_BYTES = 103
# These create a key if there is none, because their signatures must be valid after the next start.
KEY_CREATING_COMMANDS = {"serve", "seed_demo"}
# These do not start without a key, because other processes would not accept the signatures of a temporary key.
KEY_REQUIRING_COMMANDS = {"server", "worker", "qcluster", "runserver"}
STORE_STARTING_COMMANDS = {"serve"}
# These write to DATA_DIR.
DATA_COMMANDS = KEY_CREATING_COMMANDS | KEY_REQUIRING_COMMANDS | {"migrate"}
# The files that the site creates in DATA_DIR, each with the mode that keeps other users out.
PRIVATE_MODES = {
    "db.sqlite3": 0o600,
    "db.sqlite3-wal": 0o600,
    "db.sqlite3-shm": 0o600,
    "secret-key": 0o600,
    "demo.json": 0o600,
    "serve.lock": 0o600,
    "valkey.sock.path": 0o600,
    "store": 0o700,
}
# For a PostgreSQL that stops answering (power failure, frozen machine, broken network): the handshakes of all sockets share one
# connection. By default, psycopg waits 130 s for an answer, and the kernel probes a silent peer after two hours.
POSTGRES_PATIENCE = {
    "connect_timeout": 3,  # s, below the 4 s of `/readyz`
    "keepalives_idle": 5,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms
}
JOB_COMMANDS = {"worker", "qcluster"}
# The jobs run many queries in few threads. With this, a resend takes 50 ms instead of 140 ms.
JOBS_CONN_MAX_AGE_S = 60
MIN_STORE_MEMORY_BYTES = 16 * 1024**2  # an empty store takes about 2 MiB
MIN_METRICS_TOKEN_LENGTH = 16  # characters; shorter tokens can be guessed


class BadEnvironment(ImproperlyConfigured):
    """An environment variable has an invalid value."""


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """The addresses of the site. Browsers send one of `origins` in the header `Origin`."""

    origins: tuple[str, ...]
    hosts: tuple[str, ...]
    secure: bool

    @property
    def local(self) -> bool:
        return all(host in ("127.0.0.1", "localhost", "[::1]") for host in self.hosts)


def data_dir() -> Path:
    text = os.environ.get("DATA_DIR") or "var"
    path = BASE_DIR / Path(text).expanduser()  # an absolute path stays as it is
    if path.exists() and not path.is_dir():
        raise BadEnvironment(f"DATA_DIR must be a directory, not {text!r}.")
    return path.resolve()


def flag(name: str, *, default: bool = False) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if not text:
        return default
    if text in ("0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise BadEnvironment(f"{name} must be on or off (1 or 0, true or false), not {text!r}.")


def positive(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise BadEnvironment(f"{name} must be a number above 0, not {text!r}.")
    return value


def count(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > 100:
        raise BadEnvironment(f"{name} must be a whole number from 0 to 100, not {text!r}.")
    return int(text)


def store_memory_bytes() -> int:
    """Return the memory limit of the embedded store, 0 if none is set."""
    text = os.environ.get("STORE_MEMORY", "").strip().lower()
    if not text:
        return 0
    match = re.fullmatch(r"([0-9]{1,9})(mb|gb)", text)
    size = int(match[1]) * 1024 ** {"mb": 2, "gb": 3}[match[2]] if match else 0
    if size < MIN_STORE_MEMORY_BYTES:
        raise BadEnvironment(f"STORE_MEMORY must be a size like 512mb or 4gb, at least 16mb, not {text!r}.")
    return size


def version() -> str:
    """Return the version of the product, from pyproject.toml."""
    version: str = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
    return version


def local_site_url(port: int) -> str:
    return f"http://127.0.0.1:{port},http://localhost:{port}"


def site() -> Site:
    """Return the site with the addresses in SITE_URL, which are separated by commas."""
    text = os.environ.get("SITE_URL") or local_site_url(8000)
    parts = [_site_part(address.strip()) for address in text.split(",")]
    schemes = {part.scheme for part in parts}
    if len(schemes) > 1:
        raise BadEnvironment(f"SITE_URL must be all http or all https, not {text!r}.")
    origins = tuple(f"{part.scheme}://{_host(part)}{_port(part)}" for part in parts)
    return Site(origins=origins, hosts=tuple(_host(part) for part in parts), secure=schemes == {"https"})


def _site_part(text: str) -> SplitResult:
    error = BadEnvironment(
        f"SITE_URL must be like https://chat.example.org or http://127.0.0.1:8000, not {text!r}."
    )
    try:
        part = urlsplit(text)
        port = part.port
    except ValueError:
        raise error from None
    plain = part.path in ("", "/") and not part.query and not part.fragment and "@" not in part.netloc
    named = part.hostname and not set(part.hostname) & set(" *,_%\\")
    if part.scheme not in ("http", "https") or not named or not plain or port == 0:
        raise error
    return part


def _host(part: SplitResult) -> str:
    host = part.hostname or ""
    return f"[{host}]" if ":" in host else host


def _port(part: SplitResult) -> str:
    usual = {"http": 80, "https": 443}[part.scheme]
    return "" if part.port in (None, usual) else f":{part.port}"


def runs_jobs() -> bool:
    """Return whether this process is a worker or its job cluster."""
    return len(sys.argv) > 1 and sys.argv[1] in JOB_COMMANDS


def database(*, folder: Path) -> dict[str, Any]:
    """Return Django's settings for the database at DATABASE_URL."""
    text = os.environ.get("DATABASE_URL") or f"sqlite:///{folder / 'db.sqlite3'}"
    scheme = text.partition(":")[0]
    if scheme not in ("sqlite", "postgres", "postgresql", "psql", "pgsql"):
        raise BadEnvironment(f"DATABASE_URL must begin with sqlite:/// or postgres://, not with {scheme!r}.")
    try:
        config: dict[str, Any] = environ.Env.db_url_config(text)
    except (ValueError, ImproperlyConfigured, KeyError):
        raise BadEnvironment(
            "DATABASE_URL cannot be read; see docs/how-to/postgresql.md for its form."
        ) from None
    if not config.get("NAME"):
        raise BadEnvironment("DATABASE_URL must contain the name of a database.")
    if scheme != "sqlite":
        config["OPTIONS"] = POSTGRES_PATIENCE | config.get("OPTIONS", {})
    return config


def email() -> dict[str, Any]:
    """Return Django's e-mail settings from EMAIL_URL."""
    text = os.environ.get("EMAIL_URL") or "consolemail://"
    try:
        config: dict[str, Any] = environ.Env.email_url_config(text)
    except (ValueError, ImproperlyConfigured, KeyError):
        raise BadEnvironment(
            "EMAIL_URL must be like smtp+tls://user:password@host:587 or consolemail://."
        ) from None
    if config.get("EMAIL_BACKEND") == "django.core.mail.backends.console.EmailBackend":
        config["EMAIL_BACKEND"] = "chatsite.emails.ConsoleBackend"
    return config


def store_urls(*, folder: Path, count: int) -> list[str]:
    """Return the URLs of `count` databases of the store: the one in REDIS_URL, and the following numbers."""
    text = os.environ.get("REDIS_URL") or f"unix://{socket_path(folder)}"
    form = "REDIS_URL must be like redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket?db=0"
    try:
        part = urlsplit(text)
        _ = part.port
    except ValueError:
        raise BadEnvironment(f"{form}.") from None
    if part.scheme not in ("redis", "rediss", "unix"):
        raise BadEnvironment(f"{form}. It must not begin with {part.scheme or text[:10]!r}.")
    if part.scheme == "unix" and not part.path.startswith("/"):
        raise BadEnvironment(f"{form}. The path must begin with a slash.")
    query = {name: values[-1] for name, values in parse_qs(part.query).items()}
    number = query.pop("db", None)
    if number is None and part.scheme != "unix":
        number = part.path.strip("/")
    first = number or "0"
    if not first.isascii() or not first.isdigit():
        raise BadEnvironment(f"{form}. The database must be a number, not {first!r}.")
    return [_store_url(part, query, int(first) + offset) for offset in range(count)]


def _store_url(part: SplitResult, query: dict[str, str], number: int) -> str:
    if part.scheme == "unix":
        return f"unix://{part.netloc}{part.path}?{urlencode({**query, 'db': number})}"  # urlunsplit drops the slashes
    return urlunsplit(part._replace(path=f"/{number}", query=urlencode(query)))


def socket_path(folder: Path) -> Path:
    """Return the path of the embedded store's socket: in `folder`, or, if that is too long, the path that is saved in `folder`."""
    path = folder / "valkey.sock"
    note = folder / "valkey.sock.path"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES and note.exists():
        return Path(note.read_text().strip())
    return path


def secret_key() -> str:
    key = os.environ.get("DJANGO_SECRET_KEY", "").strip()
    if not key:
        raise BadEnvironment(
            "DJANGO_SECRET_KEY is not set, and a server does not start without it. Set it to a long random text,"
            " the same for every process of the site. `manage.py serve` creates and keeps a key automatically."
        )
    return key


def metrics_token() -> str:
    """Return the token that a reader of `/metrics` must send. It is empty if only this machine may read."""
    token = os.environ.get("METRICS_TOKEN", "").strip()
    if token and (
        len(token) < MIN_METRICS_TOKEN_LENGTH
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise BadEnvironment(
            f"METRICS_TOKEN must be at least {MIN_METRICS_TOKEN_LENGTH} ASCII characters without spaces, or empty."
        )
    return token


def prepare_command(command: str) -> None:
    """Set the secret key for a `manage.py` command from its file.

    Also create the data directory for `serve` and `seed_demo`, make it private for all commands that write to it, and choose the socket's
    path for `serve`.
    """
    folder = data_dir()
    if command in KEY_CREATING_COMMANDS | STORE_STARTING_COMMANDS:
        _create(folder)
    if command in DATA_COMMANDS:
        os.umask(0o077)  # also for the children of `serve`
        _make_private(folder)
    if command in STORE_STARTING_COMMANDS and not os.environ.get("REDIS_URL"):
        _prepare_socket(folder)
    if os.environ.get("DJANGO_SECRET_KEY", "").strip():
        return
    key_file = folder / "secret-key"
    if key_file.exists():
        os.environ["DJANGO_SECRET_KEY"] = key_file.read_text().strip()
    elif command in KEY_CREATING_COMMANDS:
        os.environ["DJANGO_SECRET_KEY"] = _keep_key(key_file)
    elif command not in KEY_REQUIRING_COMMANDS:
        # The signatures of this temporary key are not used after the command.
        os.environ["DJANGO_SECRET_KEY"] = secrets.token_urlsafe(50)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadEnvironment(f"DATA_DIR cannot be created: {error.strerror} ({folder}).") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadEnvironment(f"DATA_DIR cannot be written to ({folder}).")


def _make_private(folder: Path) -> None:
    """Take the rights of other users from a data directory that exists. `doctor` reports a directory where this fails.

    A shared directory, such as /tmp, stays as it is.
    """
    with suppress(OSError):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & stat.S_ISVTX:
            return
        for path, mode in ((folder, 0o700), *((folder / name, mode) for name, mode in PRIVATE_MODES.items())):
            # A link may lead to a file of another user, so it is not followed.
            if path.exists() and not path.is_symlink() and path.stat().st_mode & 0o077:
                path.chmod(mode)


def _keep_key(path: Path) -> str:
    """Write a new key and return it. Two commands at once get the same key, and no reader gets half of it."""
    draft = path.with_name(f"secret-key.{os.getpid()}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50) + "\n")
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise BadEnvironment(f"DATA_DIR cannot be written to: {error.strerror} ({path.parent}).") from None
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().strip()


def _prepare_socket(folder: Path) -> None:
    if len(os.fsencode(folder / "valkey.sock")) <= MAX_SOCKET_PATH_BYTES:
        return
    if _is_private(socket_path(folder).parent):
        return
    private = Path(tempfile.mkdtemp(prefix="chat-"))  # mode 700
    (folder / "valkey.sock.path").write_text(f"{private / 'valkey.sock'}\n")


def _is_private(folder: Path) -> bool:
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return private and len(os.fsencode(folder)) <= MAX_SOCKET_PATH_BYTES - len("/valkey.sock")
