"""May this run? Everything about an experiment and its files that can be answered before anything is touched."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.compute as pc
import torch

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS, nearest
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.processor import refuse_rebuild
from fuxictr_mm.forms import LABEL, check_form, numbers
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.parquet import open_parquet
from fuxictr_mm.training.loop import check_evaluations

__all__ = ["check_runs"]


def check_runs(experiments: Iterable[Experiment], *, compares_test: bool = False) -> None:
    """Refuse, before the first of some runs begins, what would end one of them later.

    Keys, values, columns and names were checked when each :class:`Experiment` was made. Here are the files: that they
    are there with their columns, that labels have both classes, that evaluations will take
    place. What only reading every row can tell is told by the loaders, still before the first step.

    Args:
        experiments: those that are about to run.
        compares_test: whether test metrics are what the runs are for.

    Raises:
        ConfigError, DataError: the first that cannot run, and why.
    """
    seen: dict[tuple[str, str], set[float]] = {}
    for experiment in experiments:
        _check_files(experiment)
        _check_optimizer(experiment)
        _check_gpu(experiment)
        _check_columns(experiment)
        if not experiment.get("valid_data"):
            raise ConfigError(
                f"dataset {experiment.dataset_id}: early stopping needs 'valid_data'; add it to the YAML."
            )
        for split in ("train", "valid", "test"):
            if not experiment.get(f"{split}_data"):
                continue
            path, label = Path(experiment[f"{split}_data"]), experiment.schema.label_col
            key = str(path), label
            if key not in seen:
                seen[key] = _classes(path, experiment, required=split != "test")
            if len(seen[key]) == 1:
                raise DataError(
                    f"{path}: column {label!r} is {seen[key].pop():g} in every row; {split} needs rows with label 0 "
                    "and rows with label 1" + (", or no such column." if split == "test" else ".")
                )
            if split == "test" and compares_test and not seen[key]:
                raise ConfigError(f"{path}: its rows have no labels, so there is no test AUC to compare.")
        if compares_test and not experiment.get("test_data"):
            raise ConfigError(f"dataset {experiment.dataset_id}: there is no 'test_data', so no test AUC to compare.")
        rows = open_parquet(experiment["train_data"]).num_rows
        size = experiment["batch_size"]
        if experiment.get("batch_norm") and rows % size == 1 % size:
            better = next(n for n in range(size + 1, rows + 2) if rows % n != 1)
            raise ConfigError(
                f"batch_norm: {rows:,} rows in batches of {size:,} leave a batch of one row, which has no variance to "
                f"normalise by; set another batch_size, e.g. {better:,}."
            )
        check_evaluations(experiment.get("eval_steps"), experiment["epochs"], -(-rows // size))


def _classes(path: Path, experiment: Experiment, *, required: bool) -> set[float]:
    """The distinct labels of a file; none where it may come without."""
    schema = experiment.schema
    file = open_parquet(path)
    for column, key in _needed(experiment, required=required).items():
        if column not in file.schema_arrow.names:
            raise DataError(
                f"{path}: column {column!r} is missing; found {file.schema_arrow.names}; check {key} in the YAML."
            )
    if schema.label_col not in file.schema_arrow.names:
        return set()
    check_form(path, schema.label_col, file.schema_arrow.field(schema.label_col).type, LABEL)
    found: set[float] = set()
    for batch in file.iter_batches(1 << 20, [schema.label_col]):
        # Nulls and labels other than 0 and 1 are the contract's to refuse, with their row.
        found |= set(map(float, numbers(pc.unique(batch.column(0)).drop_null())))
        if len(found) > 1:
            break
    return found


def _needed(experiment: Experiment, *, required: bool) -> dict[str, str]:
    """Column of a split -> the key that names it."""
    schema = experiment.schema
    needed = {column.name: "the 'name' of a column in 'feature_cols'" for column in schema.context_columns}
    if required:
        needed[schema.label_col] = "the 'name' in 'label_col'"
        if schema.group_id is not None:
            needed[schema.group_id] = "'group_id'"
    return {**needed, schema.history_col: "'history_col'", schema.item_col: "'item_col'"}


def _check_files(experiment: Experiment) -> None:
    for key in (key for key, known in KEYS.items() if known.content):
        value = experiment.get(key)
        for name, path in value.items() if isinstance(value, Mapping) else [(key, value)]:
            if path and not (set(path) & set("*?[") or Path(path).exists() or Path(f"{path}.parquet").exists()):
                inside = "" if name == key else f" of {name!r}"
                raise DataError(f"{path}: file not found; check the path{inside} in {key!r}.")


def _check_optimizer(experiment: Experiment) -> None:
    name = experiment["optimizer"]
    found = {kind for kind, value in vars(torch.optim).items() if isinstance(value, type)} - {"Optimizer"}
    found -= {"LBFGS", "SparseAdam"}  # want a closure, sparse gradients
    if name not in found and name.lower() != "adam":  # FuxiCTR knows that one in any case
        raise ConfigError(f"optimizer: {name!r} is none of torch.optim's; {nearest(name, found)}.")


def _check_gpu(experiment: Experiment) -> None:
    count, gpu = torch.cuda.device_count(), experiment.get("gpu", -1)
    if count and gpu >= count:
        raise ConfigError(f"gpu: {gpu} is not there; torch finds {count}, numbered from 0; -1 is the CPU.")


def _check_columns(experiment: Experiment) -> None:
    trained = [column.name for column in experiment.schema.columns if not column.freeze_emb]
    if trained and not issubclass(experiment.model_class, MultimodalRankModel):
        raise ConfigError(
            f"column {trained[0]!r}: freeze_emb: False needs a model of fuxictr_mm; "
            f"{experiment.model_class.__name__} would leave the vectors as they are. Take the key out, or another "
            "model."
        )
    refuse_rebuild(experiment.get("rebuild_dataset", True))
