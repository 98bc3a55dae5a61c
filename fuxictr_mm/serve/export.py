"""A trained network for use elsewhere: its weights as safetensors, or the network itself as ONNX.

ONNX is the extra ``fuxictr_mm[onnx]``.

Axes: B = rows, L = history length (at least 1), U = distinct items.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fuxictr_mm.errors import ConfigError, needs
from fuxictr_mm.files import atomic_write
from fuxictr_mm.models import MultimodalRankModel
from fuxictr_mm.serve.onnx_graph import TRIALS, compare, input_columns, trace
from fuxictr_mm.training.checkpoint import write_weights

__all__ = ["OnnxReport", "check_target", "export_onnx", "export_safetensors"]

DEFAULT_OPSET = 18
OLDEST_TORCH = (2, 6)
LARGEST_DIFFERENCE = 1e-5  # of a probability, between onnxruntime and torch
# An ONNX file is one protobuf message, which ends at 2 GiB; the graph beside the weights is far below 16 MiB.
LARGEST_WEIGHTS = 2**31 - 2**24


@dataclass(frozen=True)
class OnnxReport:
    """What :func:`export_onnx` wrote and found.

    Attributes:
        inputs: input name -> type and shape, in the order of the graph.
        opset: the ONNX operator set of the file.
        size: bytes of the file.
        difference: largest absolute difference between onnxruntime's and torch's probabilities on the trial batches.
        scores: smallest and largest probability among them.
    """

    inputs: dict[str, str]
    opset: int
    size: int
    difference: float
    scores: tuple[float, float]

    def to_table(self) -> str:
        """The report for people."""
        width = max(map(len, self.inputs))
        lines = [f"  {name:<{width}}  {kind}" for name, kind in self.inputs.items()]
        low, high = self.scores
        return "\n".join(
            [
                f"opset {self.opset}, {self.size:,} bytes; largest difference between onnxruntime and torch on "
                f"{len(TRIALS)} random batches: {self.difference:.1e} (scores {low:.3f} to {high:.3f})",
                "inputs (B = rows, U = distinct items, L = history length >= 1):",
                *lines,
                "output:",
                f"  {'y_pred':<{width}}  float32 (B, 1), the probability of a click",
            ]
        )


def check_target(path: str | Path, opset: int | None = None) -> None:
    """Check that an export to ``path`` can be written, before a model is restored for it.

    Raises:
        ConfigError: the suffix is neither ``.onnx`` nor ``.safetensors``, ``opset`` does not go with it, the place
            cannot be written to, torch is too old, or the extra ``onnx`` is not installed.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".safetensors"):
        raise ConfigError(f"{path}: the suffix says what to export; use .safetensors (weights) or .onnx (network).")
    if path.suffix == ".onnx":
        _onnx_modules()
    elif opset is not None:
        raise ConfigError(f"{path}: an opset ({opset}) belongs to .onnx; a .safetensors file holds weights alone.")
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; a file name is expected.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"{path}: its folder cannot be made ({err.strerror}); choose another place.") from err
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: no permission to write into {path.parent.resolve()}; choose another place.")


def export_safetensors(model: nn.Module, path: str | Path, about: Mapping[str, str] | None = None) -> None:
    """Write the weights under their published parameter names; the file loads again as ``weights``.

    Args:
        model: any model, the host's too.
        path: file to write, ``*.safetensors``.
        about: what the file shall say about itself, e.g. the experiment id.

    Raises:
        ConfigError: ``path`` has another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: weights are exported as .safetensors; give the file that suffix.")
    write_weights(model.state_dict(), path, {"format": "pt", **_provenance(model), **(about or {})})


def export_onnx(
    model: nn.Module, path: str | Path, about: Mapping[str, str] | None = None, opset: int = DEFAULT_OPSET
) -> OnnxReport:
    """Write the network as one ONNX file, after onnxruntime has given torch's scores on random batches.

    Inputs are the parts of :class:`~fuxictr_mm.batch.MultimodalBatch`: the context columns (B, ...), the item-table
    columns of the distinct items (U, ...), ``item_index`` (B, L + 1) int64 (oldest first, target last; any valid row at
    padding) and ``is_real`` (B, L) bool. The challenge's form is the case U = B (L + 1). B, L and U are free.

    Args:
        model: a model of ours, on the CPU.
        path: file to write.
        about: what the file shall say about itself beside model, versions and inputs.
        opset: ONNX operator set.

    Returns:
        what was written, and how far onnxruntime and torch are apart.

    Raises:
        ConfigError: the extra ``onnx`` is not installed or torch is too old; the model is not ours, not on the CPU, too
            large for one file or holds what cannot be exported; onnxruntime cannot run the opset or gives other scores.
            No file is left.
    """
    onnx, onnxruntime = _onnx_modules()
    model = _exportable(model)
    columns = input_columns(model)
    was_training = model.training
    model.eval()
    try:
        program = trace(model, columns, opset)
        found = next(entry.version for entry in program.opset_import if entry.domain == "")
        if found != opset:
            raise ConfigError(f"opset {opset}: torch {torch.__version__} gives only opset {found} for this network.")
        about = {"expid": model.model_id, **_provenance(model), "onnx": onnx.__version__, **(about or {})}
        about["inputs"] = json.dumps([entry.name for entry in program.graph.input])
        onnx.helper.set_model_props(program, about)
        with atomic_write(path) as temporary:
            size = temporary.write_bytes(program.SerializeToString())
            difference, scores = compare(model, columns, temporary, onnxruntime)
            if not difference < LARGEST_DIFFERENCE:  # NaN is no agreement either
                raise ConfigError(
                    f"{path}: not written, because onnxruntime {onnxruntime.__version__} and torch {torch.__version__} "
                    f"differ by {difference:.1e} where {LARGEST_DIFFERENCE:.0e} is allowed; try another opset."
                )
    finally:
        model.train(was_training)
    inputs = {column.name: str(column) for column in columns}
    inputs |= {"item_index": "int64 (B, L + 1)", "is_real": "bool (B, L)"}
    return OnnxReport(inputs, opset, size, difference, scores)


def _onnx_modules() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime; torch's exporter needs onnxscript too."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise ConfigError(
            f"ONNX export needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, whose exporter knows free axes; "
            f"found {torch.__version__}."
        )
    onnx, onnxruntime, _ = (needs(name, "onnx") for name in ("onnx", "onnxruntime", "onnxscript"))
    return onnx, onnxruntime


def _provenance(model: nn.Module) -> dict[str, str]:
    return {
        "model": type(model).__name__,
        "fuxictr_mm": metadata.version("fuxictr_mm"),
        "torch": torch.__version__,
    }


def _exportable(model: nn.Module) -> MultimodalRankModel:
    name = type(model).__name__
    if not isinstance(model, MultimodalRankModel):
        raise ConfigError(
            f"{name}: only models of fuxictr_mm (MultimodalRankModel) are exported to ONNX; its weights can be "
            "exported to .safetensors."
        )
    if model.device.type != "cpu":
        raise ConfigError(f"{name} is on {model.device}; ONNX export takes a model on the CPU (gpu: -1).")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > LARGEST_WEIGHTS:
        raise ConfigError(
            f"{name}: its weights take {size:,} bytes and one ONNX file holds at most {LARGEST_WEIGHTS:,}; use smaller "
            "widths or 'cross: low_rank', or export the weights to .safetensors."
        )
    return model
