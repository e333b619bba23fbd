"""The embedded store takes at most half of the memory that the machine, its container or its service has available."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from chatsite.run import embedded_store

GB = 1024**3


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the files of the control groups."""
    monkeypatch.setattr(embedded_store, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(embedded_store, "GROUP_FILES", tmp_path / "fs")
    return tmp_path


def limit(groups: Path, name: str, text: str) -> None:
    path = groups / "fs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_half_of_the_available_memory_is_the_default(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available
    assert (
        0 < embedded_store.default_memory_bytes(tmp_path) <= max(embedded_store.MIN_MEMORY_BYTES, available)
    )


def test_limit_of_a_container_or_service_of_version_2_counts(groups: Path, tmp_path: Path) -> None:
    (groups / "cgroup").write_text("0::/system.slice/chat.service\n")
    limit(groups, "system.slice/chat.service/memory.max", "max\n")
    assert list(embedded_store._group_limits()) == []
    limit(groups, "system.slice/memory.max", f"{GB}\n")
    assert list(embedded_store._group_limits()) == [GB]
    limit(groups, "memory.max", f"{GB // 2}\n")
    assert embedded_store.default_memory_bytes(tmp_path) == GB // 4


def test_limit_of_a_container_of_version_1_counts_also_where_its_path_is_that_of_the_host(
    groups: Path, tmp_path: Path
) -> None:
    (groups / "cgroup").write_text("5:devices:/docker/abc\n4:cpu,memory:/docker/abc\n0::/\n")
    limit(groups, "memory/memory.limit_in_bytes", f"{GB}\n")
    assert list(embedded_store._group_limits()) == [GB]
    assert embedded_store.default_memory_bytes(tmp_path) == GB // 2


def test_small_machine_leaves_the_store_a_minimum(groups: Path, tmp_path: Path) -> None:
    (groups / "cgroup").write_text("0::/\n")
    limit(groups, "memory.max", "1000000\n")
    assert embedded_store.default_memory_bytes(tmp_path) == embedded_store.MIN_MEMORY_BYTES


def test_machine_without_control_groups_has_no_such_limit(groups: Path, tmp_path: Path) -> None:
    assert list(embedded_store._group_limits()) == []


def test_store_that_has_grown_has_room_to_start(groups: Path, tmp_path: Path) -> None:
    (groups / "cgroup").write_text("0::/\n")
    limit(groups, "memory.max", "1000000\n")
    file = tmp_path / "appendonlydir" / "appendonly.aof.1.base.rdb"
    file.parent.mkdir()
    with file.open("wb") as base:
        base.truncate(GB)
    assert embedded_store.default_memory_bytes(tmp_path) == 2 * GB
