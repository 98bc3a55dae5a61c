"""How much memory this process may still take, whoever limits it: the machine, a container, ``ulimit``."""

from collections.abc import Iterator
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

__all__ = ["available_memory"]

# Of a control group: its limit, what is used of it, and the entry of memory.stat for cached files, which give way.
_VERSIONS = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "cache"),
    2: ("memory.max", "memory.current", "file"),
}


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may still take.

    The least of what the machine has free, what each control group (v1 or v2) around this process leaves, and what
    ``ulimit -v`` and ``ulimit -d`` leave.

    Args:
        root: where ``proc`` and ``sys`` are looked for.
    """
    return max(0, min([psutil.virtual_memory().available, *_of_groups(root), *_of_ulimit()]))


def _of_ulimit() -> Iterator[int]:
    if resource is None:
        return
    used = psutil.Process().memory_info()
    for limit, taken in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", getattr(used, "data", 0))):
        most, _ = resource.getrlimit(getattr(resource, limit))
        if most != resource.RLIM_INFINITY:
            yield most - taken


def _of_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # A container often sees its own group as the root, whatever its name is outside.
        group = mount / own.strip("/")
        for place in (group, *group.parents):
            if place.is_relative_to(mount):
                yield from _left(place, *_VERSIONS[1 if controllers else 2])


def _left(group: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split()[:2] for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # the group is not seen from here, or limits no memory
        return
    if most.isdigit():
        yield int(most) - used + int(stat.get(cached, 0))
