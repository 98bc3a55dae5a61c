"""The network as a graph of operators: which tensors go in, how torch traces it, how far onnxruntime is from torch.

:mod:`~fuxictr_mm.serve.export` decides what is written; nothing here writes a file that stays.

Axes: B = rows, L = history length (at least 1), U = distinct items.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.layers import HistoryEncoder
from fuxictr_mm.models import MultimodalRankModel

__all__ = ["TRIALS", "Column", "compare", "input_columns", "trace"]

# (B, L, U, share of padding) of the batches that every exported file is tried on; the graph is traced at (3, 4, 5).
TRIALS = ((1, 1, 1, 0.0), (1, 1, 2, 1.0), (3, 2, 7, 0.5), (70, 11, 90, 0.5), (2, 40, 20, 0.2), (5, 3, 4, 1.0))


@dataclass(frozen=True)
class Column:
    """One input column: ``width`` None is one number per row, ``vocab_size`` None are floats instead of ids.

    Numbers that have a normalizer go in as the data have them: their ``scaling`` is part of the graph.
    """

    name: str
    axis: str
    width: int | None
    vocab_size: int | None
    scaling: tuple[float, float] | None = None

    def __str__(self) -> str:
        shape = f"({self.axis},)" if self.width is None else f"({self.axis}, {self.width})"
        return f"{'float32' if self.vocab_size is None else 'int64'} {shape}"

    def random(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        shape = (rows,) if self.width is None else (rows, self.width)
        if self.vocab_size is not None:
            return torch.randint(0, self.vocab_size, shape, generator=generator)
        # Rows of norm about 1, as the item table has them: at large norms every score would end at 0 or 1.
        shift, width = self.scaling or (0.0, 1.0)
        return shift + width * torch.randn(shape, generator=generator) / (self.width or 1) ** 0.5

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """What the model sees of the input."""
        if self.scaling is None:
            return values
        shift, width = self.scaling
        return ((values.double() - shift) / width).float()


class _Scorer(nn.Module):
    """The model as a function of tensors in the order of the graph: columns, ``item_index``, ``is_real``."""

    def __init__(self, model: MultimodalRankModel, columns: list[Column]) -> None:
        super().__init__()
        self.model = model
        self.columns = columns

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        parts: dict[str, dict[str, torch.Tensor]] = {"B": {}, "U": {}}
        for column, value in zip(self.columns, inputs):
            parts[column.axis][column.name] = column.scaled(value)
        y_pred: torch.Tensor = self.model(MultimodalBatch(parts["B"], parts["U"], *inputs[-2:]))["y_pred"]
        return y_pred


def input_columns(model: MultimodalRankModel) -> list[Column]:
    """Context columns, then item columns, each in the order of the feature map, then what is compared only."""
    encoder = model.embedding_layer
    fields = {**encoder.context_field_dims, **encoder.item_field_dims}
    columns = []
    for axis, names in (("B", encoder.context_field_dims), ("U", encoder.item_columns)):
        for name in names:
            if name in ("item_index", "is_real", "y_pred"):
                raise ConfigError(f"column {name!r}: an exported network has a tensor of that name; rename the column.")
            width = vocab_size = None
            if name in fields:
                spec = model.feature_map.features[name]
                if spec["type"] in ("categorical", "sequence"):
                    vocab_size = spec["vocab_size"]
                if spec["type"] == "sequence":
                    width = spec["max_len"]
                elif spec["type"] == "embedding":
                    width = spec.get("pretrain_dim", spec.get("embedding_dim", fields[name]))
            elif name in model.vectors.blocks:  # compared only
                width = sum(size for _, size in model.vectors.blocks[name])
            else:  # ids that are no field, but lead to trained vectors
                vocab_size = model.feature_map.features[encoder.trained_vectors[0]]["vocab_size"]
            scaling = model.feature_map.features.get(name, {}).get("scaling")
            columns.append(Column(name, axis, width, vocab_size, tuple(scaling) if scaling else None))
    return columns


def _longest_history(model: nn.Module) -> int | None:
    """The number of learned positions, or None where any length will do."""
    tables = [module.position for module in model.modules() if isinstance(module, HistoryEncoder)]
    return min((len(table) for table in tables if table is not None), default=None)


def _random_inputs(
    columns: list[Column], rows: int, length: int, n_items: int, padding: float
) -> tuple[torch.Tensor, ...]:
    """Arguments of :class:`_Scorer`; about a share ``padding`` of each history is padding, on the left."""
    generator = torch.Generator().manual_seed(rows * 1009 + length)
    values = [column.random(rows if column.axis == "B" else n_items, generator) for column in columns]
    item_index = torch.randint(0, n_items, (rows, length + 1), generator=generator)
    share = padding if padding in (0.0, 1.0) else 2 * padding * torch.rand(rows, 1, generator=generator)
    is_real = torch.arange(length).expand(rows, length) >= share * length
    return *values, item_index, is_real


def trace(model: MultimodalRankModel, columns: list[Column], opset: int) -> Any:
    """Return the network as an ``onnx.ModelProto``."""
    longest = _longest_history(model)
    inputs = _random_inputs(columns, 3, 4 if longest is None else min(4, longest), 5, 0.5)
    # Bounds because torch 2.6 wants them; ONNX itself keeps none.
    rows, n_items = torch.export.Dim("B", max=2**31), torch.export.Dim("U", max=2**31)
    length = torch.export.Dim("L", max=longest or 2**31)
    of_columns = ({0: rows if column.axis == "B" else n_items} for column in columns)
    shapes = (*of_columns, {0: rows, 1: length + 1}, {0: rows, 1: length})
    try:
        with torch.no_grad(), _quiet(), _plain_attention():
            program = torch.onnx.export(
                _Scorer(model, columns).eval(),
                inputs,
                dynamo=True,
                dynamic_shapes={"inputs": shapes},
                input_names=[*(column.name for column in columns), "item_index", "is_real"],
                output_names=["y_pred"],
                opset_version=opset,
                verbose=False,
            )
        assert program is not None  # it is None only for dynamo=False
        proto = program.model_proto
    # The exporter's own errors are RuntimeErrors; an onnxscript older than torch expects is an ImportError.
    except (RuntimeError, ValueError, ImportError) as err:
        reason = str(err.__cause__ or err).strip().splitlines()[0]
        raise ConfigError(
            f"{type(model).__name__} of {model.model_id} cannot be exported to ONNX opset {opset} by torch "
            f"{torch.__version__}: {reason}"
        ) from err
    graph = proto.graph
    # Stack traces of every node: two thirds of a small file, and they tell the paths of the machine that exported it.
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks from users, who cannot act on them; what matters is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """In eval mode torch may run an encoder layer as one fused operator, which ONNX does not have."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def compare(
    model: MultimodalRankModel, columns: list[Column], file: Path, onnxruntime: Any
) -> tuple[float, tuple[float, float]]:
    """Largest difference over the trial batches, and the range of torch's scores."""
    longest = _longest_history(model)
    trials = [
        _random_inputs(columns, rows, min(length, longest or length), n_items, padding)
        for rows, length, n_items, padding in TRIALS
    ]
    scorer = _Scorer(model, columns)
    with torch.no_grad():
        expected = [scorer(*inputs).numpy() for inputs in trials]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        found = []
        for inputs in trials:
            values = (value.numpy() for value in inputs)
            found.append(session.run(["y_pred"], dict(zip(names, values, strict=True)))[0])
    except Exception as err:  # onnxruntime's errors share no other base
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported network: {str(err).splitlines()[0]}"
        ) from err
    every = np.concatenate(expected)
    # One array, so that a NaN in any trial is the maximum.
    difference = np.abs(np.concatenate(found) - every).max()
    return float(difference), (float(every.min()), float(every.max()))
