"""Weights on disk, FuxiCTR's ``.model`` files and safetensors: damaged, foreign or misshapen ones are refused.

A file that ``torch.save`` writes is a zip archive with a CRC-32 of every tensor. ``torch.load`` does not check it, so a
flipped bit becomes a wrong weight in silence. Here the sums are checked first, and only tensors and plain values are
unpickled. A safetensors file that is written here has a CRC-32 in its metadata. Other safetensors files, and those of
torch before 1.6, have none: of these only names, shapes, types and finite values are checked.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, checksum, system_error

__all__ = ["check_weights", "load_weights", "read_file", "read_weights", "write_file", "write_weights"]

SUM = "crc32"


def write_file(content: Any, path: str | Path) -> None:
    """``torch.save``, beside ``path`` and then renamed: a crash leaves the old file whole."""
    # An open file: given a path, torch would put its name, which is a temporary one, into the archive.
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        torch.save(content, stream)


def write_weights(
    weights: Mapping[str, torch.Tensor], path: str | Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a state dict atomically, as safetensors if the suffix says so, otherwise as FuxiCTR does.

    Args:
        weights: parameter name -> tensor.
        path: file to write.
        metadata: what a safetensors file says about itself; the other form has no place for it.
    """
    if Path(path).suffix != ".safetensors":
        write_file(weights, path)
        return
    apart: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in weights.items():
        # Columns that share an embedding hold one tensor under several names, which safetensors refuses.
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in storages else tensor.contiguous()
        storages.add(storage)
    metadata = {**(metadata or {}), SUM: checksum(_content(apart))}
    with atomic_write(path) as temporary:
        save_file(apart, temporary, metadata)


def _content(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Any]]:
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor.reshape(-1).view(torch.uint8).numpy().data


def read_file(path: str | Path) -> Any:
    """Return what ``torch.save`` wrote, on the CPU.

    Raises:
        DataError: the file is missing, truncated or damaged, or holds code or objects besides tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: file not found; a checkpoint is expected.")
    try:
        # Files of torch < 1.6 are no archives and carry no sums; torch.load reads them all the same.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise DataError(f"{path}: damaged (the checksum of {damaged!r} does not fit); use another copy.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old forms, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as err:
        raise DataError(
            f"{path}: no checkpoint of tensors alone ({str(err).split(chr(10))[0]}); it is not opened, because "
            "unpickling other things can run code. Save a state dict with torch.save(model.state_dict(), ...)."
        ) from err
    except Exception as err:  # whatever torch, zipfile and zlib make of a file that is damaged or none of theirs
        if isinstance(err, OSError) and (told := system_error(err, path)):
            raise told from err
        raise DataError(
            f"{path}: not a whole checkpoint ({path.stat().st_size:,} bytes; {type(err).__name__}: "
            f"{str(err)[:120].split(chr(10))[0]}); use another copy."
        ) from err


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a ``.model``, ``.pth`` or ``.safetensors`` file, on the CPU.

    Raises:
        DataError: as :func:`read_file`; or the file holds something else than a state dict.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    weights = read_file(path)
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        found = sorted(map(str, weights)) if isinstance(weights, Mapping) else type(weights).__name__
        raise DataError(f"{path}: a state dict (parameter name -> tensor) is expected; found {found}.")
    return dict(weights)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(SUM)
    except (SafetensorError, OSError, ValueError, RuntimeError) as err:
        if path.exists() and (told := system_error(err, path)):
            raise told from err
        raise DataError(f"{path}: not a whole safetensors file ({err}); use another copy.") from err
    if expected is not None and expected != checksum(_content(weights)):
        raise DataError(f"{path}: damaged (its checksum does not fit); use another copy.")
    return weights


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a model; every parameter must be there with its shape, and no other.

    Raises:
        DataError: as :func:`read_weights` and :func:`check_weights`. The model is unchanged then.
    """
    weights = read_weights(path)
    check_weights(weights, model, path)
    model.load_state_dict(weights)


def check_weights(weights: Mapping[str, torch.Tensor], model: nn.Module, path: str | Path) -> None:
    """Check that weights fit a model, whatever file they come from.

    Raises:
        DataError: a parameter is missing, unknown, of another shape or kind, or not finite; names the first, and how
            many do not fit.
    """
    expected = model.state_dict()
    misfits = []
    for name, own in expected.items():
        if name not in weights:
            misfits.append(f"parameter {name!r} {tuple(own.shape)} is missing")
        elif weights[name].shape != own.shape:
            found = tuple(weights[name].shape)
            misfits.append(f"parameter {name!r} has shape {found}, the model expects {tuple(own.shape)}")
        elif weights[name].is_floating_point() != own.is_floating_point() or weights[name].is_complex():
            misfits.append(f"parameter {name!r} is {weights[name].dtype}, the model expects {own.dtype}")
    for name, tensor in weights.items():
        if name not in expected:
            misfits.append(f"parameter {name!r} {tuple(tensor.shape)} is unknown to the model")
    if misfits:
        more = f" (and {len(misfits) - 1} more misfits of {len(expected)} parameters)" if len(misfits) > 1 else ""
        raise DataError(
            f"{path}: {misfits[0]}{more}; it belongs to another model, other widths or another data set: compare the "
            "experiment's YAML with the one it was trained with."
        )
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise DataError(
                f"{path}: parameter {name!r} has {bad:,} values of {tensor.numel():,} that are NaN or inf: the file is "
                "damaged, or that training had diverged; use another copy."
            )
