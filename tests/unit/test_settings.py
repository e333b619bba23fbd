"""The environment: each variable, its default, and the sentence for a wrong value, which names it."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler

from chatsite import environment
from chatsite.environment import BASE_DIR, BadEnvironment
from chatsite.logs import LineFormatter


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in (
        "SITE_URL",
        "DATABASE_URL",
        "REDIS_URL",
        "STORE_MEMORY",
        "DJANGO_DEBUG",
        "DJANGO_SECRET_KEY",
        "TRUSTED_PROXY_COUNT",
        "METRICS_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    umask = os.umask(0o022)  # commands that write to DATA_DIR change it
    yield
    os.umask(umask)


# ── SITE_URL ──


def test_without_site_url_both_names_of_this_machine_are_allowed() -> None:
    site = environment.site()
    assert site.origins == ("http://127.0.0.1:8000", "http://localhost:8000")
    assert site.hosts == ("127.0.0.1", "localhost")
    assert site.local
    assert not site.secure


def test_site_url_leaves_out_the_usual_port_as_browsers_do_in_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_URL", "https://Chat.example.org:443/")
    site = environment.site()
    assert site.origins == ("https://chat.example.org",)
    assert site.secure
    assert not site.local


def test_site_url_may_be_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_URL", "http://[::1]:8123")
    site = environment.site()
    assert site.origins == ("http://[::1]:8123",)
    assert site.hosts == ("[::1]",)
    assert site.local


@pytest.mark.parametrize(
    "given",
    [
        "chat.example.org",
        "ftp://chat.example.org",
        "https://",
        "https://*",
        "https://chat.example.org/path",
        "https://ada@chat.example.org",
        "https://chat.example.org:99999",
        "https://chat.example.org:0",
        "https://a b",
        "http://[::1",
        "http://one.example,https://two.example",
        ",",
    ],
)
def test_a_wrong_site_url_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SITE_URL", given)
    with pytest.raises(BadEnvironment, match="SITE_URL"):
        environment.site()


# ── Plain values ──


@pytest.mark.parametrize(
    ("given", "expected"), [("", False), ("off", False), ("1", True), ("True", True), ("no", False)]
)
def test_a_flag_is_on_or_off(monkeypatch: pytest.MonkeyPatch, given: str, expected: bool) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", given)
    assert environment.flag("DJANGO_DEBUG") is expected


def test_a_flag_that_is_neither_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", "maybe")
    with pytest.raises(BadEnvironment, match="DJANGO_DEBUG"):
        environment.flag("DJANGO_DEBUG")


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "many", "1e12"])
def test_a_rate_limit_scale_that_is_no_factor_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("MESSAGING_RATE_LIMIT_SCALE", given)
    with pytest.raises(BadEnvironment, match="MESSAGING_RATE_LIMIT_SCALE"):
        environment.positive("MESSAGING_RATE_LIMIT_SCALE", 1.0)


@pytest.mark.parametrize("given", ["-1", "one", "1.5", "101", "²"])
def test_a_proxy_count_that_is_no_count_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("TRUSTED_PROXY_COUNT", given)
    with pytest.raises(BadEnvironment, match="TRUSTED_PROXY_COUNT"):
        environment.count("TRUSTED_PROXY_COUNT", 0)


@pytest.mark.parametrize(
    ("given", "size"), [("", 0), ("16mb", 16 * 1024**2), ("512MB", 512 * 1024**2), ("4gb", 4 * 1024**3)]
)
def test_the_memory_of_the_store_is_a_size(monkeypatch: pytest.MonkeyPatch, given: str, size: int) -> None:
    monkeypatch.setenv("STORE_MEMORY", given)
    assert environment.store_memory_bytes() == size


@pytest.mark.parametrize("given", ["0", "15mb", "1000000000", "-1gb", "1.5gb", "4 gb", "half", "²gb"])
def test_a_memory_of_the_store_that_is_no_size_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("STORE_MEMORY", given)
    with pytest.raises(BadEnvironment, match="STORE_MEMORY"):
        environment.store_memory_bytes()


@pytest.mark.parametrize("given", ["short", "with a space in it", "\u2603" * 20])
def test_a_metrics_token_that_is_weak_or_no_header_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("METRICS_TOKEN", given)
    with pytest.raises(BadEnvironment, match="METRICS_TOKEN") as refused:
        environment.metrics_token()
    assert given not in str(refused.value), "a secret stays out of logs"


def test_a_data_dir_that_is_a_file_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(BadEnvironment, match="DATA_DIR"):
        environment.data_dir()


# ── DATABASE_URL ──


def test_the_database_is_a_file_in_the_data_dir(tmp_path: Path) -> None:
    assert environment.database(folder=tmp_path)["NAME"] == str(tmp_path / "db.sqlite3")


def test_a_postgres_url_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ada:secret@db.example:5433/chat")
    config = environment.database(folder=tmp_path)
    assert (config["ENGINE"], config["HOST"], config["PORT"]) == (
        "django.db.backends.postgresql",
        "db.example",
        5433,
    )


def test_connection_options_of_a_postgres_url_replace_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ada@db.example/chat?sslmode=require&connect_timeout=9")
    options = environment.database(folder=tmp_path)["OPTIONS"]
    assert options == {**environment.POSTGRES_PATIENCE, "sslmode": "require", "connect_timeout": 9}


def test_a_postgres_that_never_answers_is_given_up_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("DATABASE_URL", f"postgres://ada:secret@{where}/chat")
        database = ConnectionHandler({"default": environment.database(folder=tmp_path)})["default"]
        began_s = time.monotonic()
        with pytest.raises(OperationalError), database.wrap_database_errors:
            database.connect()
        assert time.monotonic() - began_s < 8


@pytest.mark.parametrize("given", ["mysql://h/n", "nonsense", "postgres://host:port/chat", "postgres://host"])
def test_a_wrong_database_url_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", given)
    with pytest.raises(BadEnvironment, match="DATABASE_URL"):
        environment.database(folder=tmp_path)


# ── REDIS_URL ──


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://store:6379", ["redis://store:6379/0", "redis://store:6379/1"]),
        ("redis://:secret@store/4", ["redis://:secret@store/4", "redis://:secret@store/5"]),
        (
            "rediss://store/?db=2&ssl_cert_reqs=none",
            [f"rediss://store/{n}?ssl_cert_reqs=none" for n in (2, 3)],
        ),
        ("unix:///run/valkey.sock", ["unix:///run/valkey.sock?db=0", "unix:///run/valkey.sock?db=1"]),
        ("unix:///run/valkey.sock?db=3", ["unix:///run/valkey.sock?db=3", "unix:///run/valkey.sock?db=4"]),
    ],
)
def test_the_store_has_databases_side_by_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, expected: list[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", given)
    assert environment.store_urls(folder=tmp_path, count=2) == expected


@pytest.mark.parametrize(
    "given", ["store:6379", "http://store", "redis://store/one", "redis://store:port", "unix://run"]
)
def test_a_wrong_redis_url_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("REDIS_URL", given)
    with pytest.raises(BadEnvironment, match="REDIS_URL"):
        environment.store_urls(folder=tmp_path, count=1)


def test_a_socket_path_too_long_for_the_kernel_is_moved_to_a_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    monkeypatch.setenv("DATA_DIR", str(deep))
    environment.prepare_command("serve")
    path = environment.socket_path(environment.data_dir())
    assert len(os.fsencode(path)) <= environment.MAX_SOCKET_PATH_BYTES
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    environment.prepare_command("serve")
    assert environment.socket_path(environment.data_dir()) == path, "a second start finds the same socket"
    path.parent.rmdir()


def test_a_private_folder_that_others_may_enter_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / ("d" * 60) / ("e" * 60)))
    environment.prepare_command("serve")
    first = environment.socket_path(environment.data_dir())
    first.parent.chmod(0o755)
    environment.prepare_command("serve")
    second = environment.socket_path(environment.data_dir())
    assert second != first
    first.parent.rmdir()
    second.parent.rmdir()


# ── The rights of other users in DATA_DIR ──


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("command", ["serve", "server", "worker", "seed_demo", "migrate"])
def test_a_data_dir_that_exists_becomes_private(command: str) -> None:
    folder = environment.data_dir()
    (folder / "store").mkdir(parents=True)
    files = [folder / name for name in ("db.sqlite3", "db.sqlite3-wal", "secret-key", "demo.json")]
    for path in files:
        path.write_text("x")
    foreign = folder / "run.sh"
    foreign.touch(0o755)
    folder.chmod(0o755)
    environment.prepare_command(command)
    assert mode(folder) == mode(folder / "store") == 0o700
    assert [mode(path) for path in files] == [0o600] * len(files)
    assert mode(foreign) == 0o755, "only what the site has created"
    (folder / "new").touch()
    assert mode(folder / "new") == 0o600


def test_a_command_that_writes_nothing_changes_no_rights() -> None:
    folder = environment.data_dir()
    folder.mkdir(mode=0o755)
    environment.prepare_command("doctor")
    assert mode(folder) == 0o755


def test_a_shared_data_dir_and_the_target_of_a_link_stay_as_they_are(tmp_path: Path) -> None:
    folder = environment.data_dir()
    folder.mkdir()
    folder.chmod(0o1777)
    environment.prepare_command("server")
    assert mode(folder) == 0o1777
    folder.chmod(0o755)
    target = tmp_path / "target"
    target.touch()
    target.chmod(0o644)
    (folder / "db.sqlite3").symlink_to(target)
    environment.prepare_command("server")
    assert (mode(folder), mode(target)) == (0o700, 0o644)


# ── The key ──


def test_serve_makes_a_key_that_only_its_owner_can_read_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.prepare_command("serve")
    made = environment.secret_key()
    kept = environment.data_dir() / "secret-key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for command in ("serve", "worker", "seed_demo", "shell"):
        monkeypatch.delenv("DJANGO_SECRET_KEY")
        environment.prepare_command(command)
        assert environment.secret_key() == made, command


def test_a_key_of_the_environment_replaces_the_kept_one(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.prepare_command("serve")
    monkeypatch.setenv("DJANGO_SECRET_KEY", "given")
    environment.prepare_command("serve")
    assert environment.secret_key() == "given"


@pytest.mark.parametrize("command", ["server", "worker", "qcluster", "runserver"])
def test_another_server_does_not_start_without_a_key(command: str) -> None:
    environment.prepare_command(command)
    with pytest.raises(BadEnvironment, match="DJANGO_SECRET_KEY"):
        environment.secret_key()


def test_a_plain_command_needs_no_key_and_leaves_none_behind() -> None:
    environment.prepare_command("makemigrations")
    assert environment.secret_key()
    assert not environment.data_dir().exists()


def test_the_application_refuses_to_load_without_a_key_in_one_clear_sentence(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", "import chatsite.asgi"],
        cwd=BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode != 0
    assert "DJANGO_SECRET_KEY is not set" in ran.stderr.splitlines()[-1]


def test_a_wrong_value_ends_a_command_with_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "SITE_URL": "nonsense"}
    ran = subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        cwd=BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "SITE_URL" in ran.stderr


def test_the_settings_page_has_every_variable_that_is_read() -> None:
    page = (BASE_DIR / "docs" / "reference" / "settings.md").read_text()
    read = {
        name
        for file in ("environment.py", "settings.py")
        for name in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', (BASE_DIR / "chatsite" / file).read_text())
        if name in ENVIRONMENT
    }
    assert read == ENVIRONMENT
    assert {name for name in ENVIRONMENT if f"`{name}`" not in page} == set()


ENVIRONMENT = {
    "SITE_URL",
    "DJANGO_SECRET_KEY",
    "DJANGO_DEBUG",
    "DATABASE_URL",
    "REDIS_URL",
    "STORE_MEMORY",
    "DATA_DIR",
    "TRUSTED_PROXY_COUNT",
    "METRICS_TOKEN",
    "SIGN_UP",
    "EMAIL_URL",
    "DEFAULT_FROM_EMAIL",
    "MESSAGING_RATE_LIMIT_SCALE",
    "MESSAGING_RECOVERY",
}


# ── The settings that follow ──


def settings_with(tmp_path: Path, expression: str, *, command: str = "", **environ: str) -> str:
    """Return what `expression` over the settings gives in a separate process."""
    ran = subprocess.run(
        [sys.executable, "-c", f"from chatsite import settings as s; print({expression})", command],
        cwd=BASE_DIR,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "DJANGO_SECRET_KEY": "x", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.strip()


def test_an_https_site_has_secure_cookies_hsts_and_a_redirect(tmp_path: Path) -> None:
    names = (
        "(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SECURE_SSL_REDIRECT, s.SECURE_HSTS_SECONDS > 0)"
    )
    assert settings_with(tmp_path, names, SITE_URL="https://chat.example.org") == "(True, True, True, True)"
    assert (
        settings_with(tmp_path, names, SITE_URL="http://chat.example.org") == "(False, False, False, False)"
    )


def test_forwarded_headers_are_believed_only_behind_a_proxy(tmp_path: Path) -> None:
    header = "getattr(s, 'SECURE_PROXY_SSL_HEADER', None) is not None, s.ALLAUTH_TRUSTED_PROXY_COUNT"
    assert settings_with(tmp_path, header, SITE_URL="http://127.0.0.1:8000") == "False 0"
    assert settings_with(tmp_path, header, SITE_URL="https://chat.example.org") == "True 1"
    assert (
        settings_with(tmp_path, header, SITE_URL="https://chat.example.org", TRUSTED_PROXY_COUNT="2")
        == "True 2"
    )


@pytest.mark.parametrize(
    ("command", "age_s"), [("worker", 60), ("qcluster", 60), ("server", 0), ("shell", 0)]
)
def test_on_postgresql_only_the_jobs_keep_their_connections(tmp_path: Path, command: str, age_s: int) -> None:
    age = "s.DATABASES['default'].get('CONN_MAX_AGE', 0)"
    url = "postgres://ada@db.example/chat"
    assert settings_with(tmp_path, age, command=command, DATABASE_URL=url) == str(age_s)
    assert settings_with(tmp_path, age, command=command, DATABASE_URL=f"{url}?conn_max_age=5") == "5"


def test_the_rate_limit_scale_reaches_the_policy(tmp_path: Path) -> None:
    assert (
        settings_with(tmp_path, "s.MESSAGING['rate_limit_scale']", MESSAGING_RATE_LIMIT_SCALE="50") == "50.0"
    )


def test_recovery_is_on_unless_the_drill_turns_it_off(tmp_path: Path) -> None:
    assert settings_with(tmp_path, "s.MESSAGING['recovery']") == "True"
    assert settings_with(tmp_path, "s.MESSAGING['recovery']", MESSAGING_RECOVERY="off") == "False"


# ── The log ──


def line(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"name": "messaging", "levelname": "INFO", "msg": message, **extra})
    return LineFormatter().format(record)


@pytest.mark.parametrize(
    "hostile", ["a\nb", "a\r\nINFO forged", "\x1b[31m", "a\u202eb", "a\u2028b", "a\x85b", "\udc80"]
)
def test_a_hostile_name_stays_on_its_line_and_moves_no_letter(hostile: str) -> None:
    for written in (line(hostile), line("joined", user=hostile)):
        assert len(written.splitlines()) == 1
        written.encode()
        assert not any(char in written for char in "\x1b\u202e\u2028\x85")


def test_a_log_line_has_each_extra_value_with_its_name() -> None:
    assert line("accepted", room="r1", seq=7).endswith('INFO messaging accepted room="r1" seq=7')
