"""How much memory is left, whoever limits it."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_mm import memory
from fuxictr_mm.memory import available_memory

GB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 100 GB free, whose control groups are still to be written."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("", (), {"available": 100 * GB}))
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def group(machine: Path, place: str, **files: str) -> None:
    folder = machine / "sys/fs/cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_DOT_", ".")).write_text(content)


def v2(machine: Path, place: str, most: str, used: int) -> None:
    files = {"memory_DOT_max": most + "\n", "memory_DOT_current": f"{used}\n"}
    group(machine, place, **files, memory_DOT_stat=f"anon 5\nfile {GB}\n")


def v1(machine: Path, place: str, most: int, used: int) -> None:
    files = {"memory_DOT_limit_in_bytes": f"{most}\n", "memory_DOT_usage_in_bytes": f"{used}\n"}
    group(machine, place, **files, memory_DOT_stat=f"cache {GB}\nrss 7\n")


def test_without_limits_it_is_what_the_machine_has_free(machine: Path) -> None:
    assert available_memory(machine) == 100 * GB
    (machine / "proc/self/cgroup").write_text("0::/\n")
    assert available_memory(machine) == 100 * GB
    v2(machine, "", "max", 3 * GB)
    assert available_memory(machine) == 100 * GB
    assert available_memory() > 1 << 20


def test_a_group_of_version_2_counts_wherever_it_stands_above(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/job/step\n")
    v2(machine, "job/step", "max", 3 * GB)
    v2(machine, "job", str(10 * GB), 4 * GB)
    assert available_memory(machine) == 7 * GB  # cached files give way
    v2(machine, "job/step", str(5 * GB), 3 * GB)
    assert available_memory(machine) == 3 * GB
    v2(machine, "job/step", str(5 * GB), 8 * GB)
    assert available_memory(machine) == 0


@pytest.mark.parametrize("seen_as", ["docker/abc", ""], ids=["by its name", "as the root"])
def test_a_group_of_version_1_counts(machine: Path, seen_as: str) -> None:
    (machine / "proc/self/cgroup").write_text("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    v1(machine, f"memory/{seen_as}", 6 * GB, 2 * GB)
    v1(machine, "memory/docker", (1 << 63) - 4096, 2 * GB)  # no limit
    assert available_memory(machine) == 5 * GB


@pytest.mark.parametrize("limit", ["AS", "DATA"])
def test_ulimit_counts(limit: str) -> None:
    code = (
        "import resource, psutil; from fuxictr_mm.memory import available_memory; before = available_memory();"
        "used = psutil.Process().memory_info();"
        f"most = (used.vms if '{limit}' == 'AS' else used.data) + (300 << 20);"
        f"resource.setrlimit(resource.RLIMIT_{limit}, (most, most));"
        "after = available_memory(); assert 250 << 20 < after < 310 << 20 < before, (before, after)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
