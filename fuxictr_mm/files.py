"""Reading and writing files safely: fingerprints, checksums, checked JSON, atomic writes, one writer at a time."""

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from fuxictr_mm.errors import ConfigError, DataError

__all__ = [
    "atomic_write", "check_writable", "checksum", "file_fingerprint", "misfit", "naming", "only_one", "read_json",
    "read_sealed", "remove_leftovers", "system_error", "temporary_folder", "write_json", "write_sealed",
]  # fmt: skip

T = TypeVar("T")
SEAL = "checksum"
_HOST = re.sub(r"[^.0-9A-Za-z]", "", platform.node())[:32]
_OWNER = re.compile(r"\.(?P<pid>\d+)(@(?P<host>[.0-9A-Za-z]*))?-[^-]*\.tmp$")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` only if the block ends without an error.

    Two processes that write the same path at once each use their own temporary file, and the last rename wins:
    a reader sees one whole file or the other, never a mixture.

    Raises:
        OSError: it cannot be written; names ``path``, whichever library has found that.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
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
    except Exception as err:
        if getattr(err, "filename", None) == str(temporary):
            err.filename = None  # type: ignore[attr-defined]
        with naming(path):
            raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let a system error in this block name ``path`` if it names no file: one in the middle of writing does not."""
    try:
        yield
    except Exception as err:
        if getattr(err, "filename", None) is None and (told := system_error(err, Path(path))):
            raise told from err
        raise


def system_error(err: Exception, path: Path) -> OSError | None:
    """What the system said, with the path; ``None`` if it said nothing, so that the file itself is to blame.

    Libraries in other languages tell the number of a system error in their text only.
    """
    # torch, stopped by an error in the middle of an archive, tells another one about its end.
    while not isinstance(err, OSError) and isinstance(err.__context__, OSError):
        err = err.__context__
    code = err.errno if isinstance(err, OSError) else None
    if not code and (found := re.search(r"(?:os error|errno)[ =]*(\d+)", str(err))):
        code = int(found[1])
    # An invalid argument is what readers of cut files make of places that are not there.
    return OSError(code, os.strerror(code), str(path)) if code and code != errno.EINVAL else None


def check_writable(path: Path) -> None:
    """Find out now whether a file that is written at the end of long work can be, and make its folder.

    Raises:
        OSError: it cannot; names it, or the folder that cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    code = 0
    if path.is_dir():
        code = errno.EISDIR
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        code = errno.EACCES
    if code:
        raise OSError(code, os.strerror(code), str(path))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder in :func:`atomic_write` and :func:`temporary_folder`.

    Files of living processes and of other machines that share the folder stay.
    """
    for temporary in folder.glob(".*.tmp"):
        owner = _OWNER.search(temporary.name)
        if owner and owner["host"] in (None, _HOST) and not _is_alive(int(owner["pid"])):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside ``path`` to make content in; it goes at the end, and what killed ones left before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path), suffix=".tmp") as name:
        yield Path(name)


def _prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}@{_HOST}-"


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
        with naming(note):
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
    """Write a JSON file for machines and people, whole or not at all; what is not finite becomes ``null``."""
    with atomic_write(path) as temporary:
        text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False, default=str)
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of what it says, which :func:`read_sealed` compares."""
    text = json.dumps(_finite(content), sort_keys=True, default=str)
    write_json(path, {**content, SEAL: checksum([("", text.encode())])})


def read_sealed(path: Path, again: str) -> dict[str, Any]:
    """Read what :func:`write_sealed` has written.

    Raises:
        DataError: as :func:`read_json`; there is no checksum, or the content does not fit it.
    """
    content = read_json(dict[str, Any], path, again)
    if SEAL not in content:
        raise DataError(f"{path}: has no checksum, so it is damaged or of an earlier version; {again}.")
    if content.pop(SEAL) != checksum([("", json.dumps(content, sort_keys=True).encode())]):
        raise DataError(f"{path}: damaged or changed by hand (its checksum does not fit); {again}.")
    return content


def checksum(parts: Iterable[tuple[str, Any]]) -> str:
    """CRC-32 of named buffers, 8 hexadecimal digits; against damage, not against forgers."""
    total = 0
    for name, data in parts:
        total = zlib.crc32(data, zlib.crc32(f"{name}\0".encode(), total))
    return f"{total:08x}"
