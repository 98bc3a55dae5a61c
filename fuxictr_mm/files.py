"""Reading and writing files safely: fingerprints, checked JSON, atomic writes, one writer at a time."""

import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from fuxictr_mm.errors import ConfigError, DataError

__all__ = [
    "atomic_write", "file_fingerprint", "misfit", "only_one", "read_json", "remove_leftovers",
    "write_json",
]  # fmt: skip

T = TypeVar("T")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` only if the block ends without an error.

    Two processes that write the same path at once each use their own temporary file, and the last rename wins:
    a reader sees one whole file or the other, never a mixture.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}-", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp, and libraries that put a file of their own there, make files that only their owner can read; the
        # final file gets what open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        # On disk before it takes the name: after a power cut the name must not stand for an empty file.
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove what killed processes left beside ``path`` in :func:`atomic_write`; a living one's file stays."""
    path = Path(path)
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        owner = temporary.name.removeprefix(f".{path.name}.").split("-")[0]
        if not (owner.isdigit() and _is_alive(int(owner))):
            temporary.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is somebody else's
        return True
    return True


@contextmanager
def only_one(path: str | Path, what: str) -> Iterator[None]:
    """Let one process at a time do ``what``; a second one is refused at once, not kept waiting.

    Within a process it may be entered again. The lock falls with the process, however that ends.

    Args:
        path: file that is locked, made if it is not there; who holds it is noted in ``<path>.pid``.
        what: what is going on, as the refusal says it: ``"another run of experiment x"``.

    Raises:
        ConfigError: another process holds the lock; names its pid.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_name(f"{path.name}.pid")
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        pid = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        raise ConfigError(
            f"{what} is going on in process {pid or '(not noted yet)'}; wait until it has ended, or stop it "
            f"(it holds {path})."
        ) from None
    try:
        note.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            note.unlink(missing_ok=True)
        lock.release()


def file_fingerprint(path: str | Path) -> str:
    """Return a 16-digit hexadecimal digest of the file's bytes (not of its name or date).

    A process reads a file once for it, as long as its size and time of change stay.
    """
    status = os.stat(path)
    identity = (os.path.abspath(path), status.st_size, status.st_mtime_ns)
    # Clocks of file systems tick in milliseconds: a file of just now may change once more in the same tick.
    is_settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
    return _digest(*identity) if is_settled else _digest.__wrapped__(*identity)


@lru_cache(maxsize=1024)
def _digest(path: str, _size: int, _changed: int) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_json(kind: type[T], path: Path, again: str) -> T:
    """Read a JSON file as a pydantic model, a dataclass or another annotated type.

    Args:
        again: what to do about a file that cannot be used: ``"run the study again"``.

    Raises:
        DataError: it cannot be read or does not fit; names the place in it, what is there and what is expected.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err}); {again}.") from err
    except ValidationError as err:
        raise misfit(path, err, again) from err


def misfit(where: object, err: ValidationError, again: str) -> DataError:
    """The first of pydantic's errors as one sentence; ``where``: the file, or the line of it."""
    first = err.errors(include_url=False)[0]
    # A missing key has no value, and a text that is no JSON is not one either.
    found = "" if first["type"] in ("missing", "json_invalid") else f", found {_named(first['input'])}"
    steps = (f" {step + 1}" if isinstance(step, int) else f", {step}" for step in first["loc"])
    place = "".join(steps).removeprefix(", ") or "the file"
    return DataError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}{found}; {again}.")


def _named(value: object) -> str:
    text = json.dumps(value, default=str)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for machines and people, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
