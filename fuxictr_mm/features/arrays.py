"""Named arrays in one safetensors file with a JSON header: no code inside, written atomically, memory-mapped."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, checksum, system_error

__all__ = ["digest", "read_arrays", "stored_name", "write_arrays"]

# safetensors' names of dtypes.
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], form: str, info: Mapping[str, Any]) -> None:
    """Write arrays and what there is to say of them, the same bytes for the same content, with a checksum of both.

    Args:
        path: the file.
        arrays: name -> array.
        form: what kind of file it is, see :func:`read_arrays`.
        info: JSON keeps it as it is.
    """
    arrays = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    about = json.dumps({"format": form, **info}, ensure_ascii=False)
    # One entry: safetensors gives several in another order in each process.
    header = {"fuxictr_mm": json.dumps([about, checksum(_content(arrays, about))], ensure_ascii=False)}
    with atomic_write(path) as temporary:
        save_file(arrays, temporary, header)


def read_arrays(path: str | Path, form: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map the arrays of a file, and return what it says of them.

    Raises:
        DataError: the file is missing, damaged, or of another form than ``form``.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:  # checks that the file is whole
            about, found = json.loads((file.metadata() or {})["fuxictr_mm"])
        arrays = _map(path)
        if found != checksum(_content(arrays, about)):
            raise ValueError("its checksum does not fit")
        info = json.loads(about)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as err:
        if path.exists() and (told := system_error(err, path)):
            raise told from err
        raise DataError(
            f"{path}: not a whole file of item arrays ({type(err).__name__}: {err}); delete it, and the next run "
            "builds it anew."
        ) from err
    if (kind := info.pop("format", None)) != form:
        raise DataError(f"{path}: format {kind!r}, expected {form!r}; delete it, and the next run builds it anew.")
    return arrays, info


def _content(arrays: Mapping[str, np.ndarray], about: str) -> Iterator[tuple[str, Any]]:
    yield "", about.encode()
    for name in sorted(arrays):
        values = arrays[name]
        yield f"{name} {values.dtype.str} {values.shape}", values.reshape(-1).view(np.uint8).data


def digest(content: Any) -> str:
    """16-digit hexadecimal digest of bytes, or of what JSON makes of anything else."""
    data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def stored_name(name: str, content: Any) -> str:
    """File name of the arrays called ``name`` that depend on ``content``, bytes or JSON."""
    return f"{re.sub(r'[^-.0-9A-Za-z_]', '_', name)}-{digest(content)}.safetensors"


def _map(path: Path) -> dict[str, np.ndarray]:
    """Map a file that is known to be whole; the library's own numpy reader would copy it."""
    # Copy-on-write: nobody can change the file, and torch takes the arrays without a warning about read-only memory.
    raw = np.memmap(path, np.uint8, "c")
    size = int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        arrays[name] = raw[start:stop].view(np.ndarray).view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
