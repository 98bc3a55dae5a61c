"""Looks a dataset over before anything trains on it: cold items, shared users, vectors, level leaks.

Data that keep the contract are never refused here, and no run pays for it.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.contract import Split, read_split
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.derivation import derivations_of
from fuxictr_mm.features.derive.training import TrainingSplit
from fuxictr_mm.features.sources import Sources
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.features.vector_files import iter_vectors, read_ids
from fuxictr_mm.forms import NUMBER, groups, numbers
from fuxictr_mm.inspect.findings import Findings, LevelFindings, ModalityFindings, SplitFindings
from fuxictr_mm.inspect.worth import ItemVectors, worth_of
from fuxictr_mm.parquet import open_parquet

__all__ = ["inspect_dataset"]

SHOWN = 3  # items whose neighbours are shown, the most clicked ones


def inspect_dataset(params: Mapping[str, Any], *, progress: bool = True) -> Findings:
    """Read and check every split and modality of a dataset, and tell what is in them.

    Args:
        params: FuxiCTR's merged dataset parameters with absolute paths (of ``load_dataset``);
            ``valid_data`` and ``test_data`` are optional.
        progress: show progress bars, if this is a terminal.

    Raises:
        DataError: a file breaks the data contract.
        ConfigError: the parameters cannot be used.
    """
    schema = DatasetSchema.from_params(params)
    paths = (params.get("item_info"), params.get("item_feature"), params.get("modality_data"))
    sources = Sources.from_paths(schema.item_col, *paths)
    item_table = ItemTable(sources.item_ids())
    own = _own_values(schema, sources, item_table)
    uncut = replace(schema, max_len=sys.maxsize)
    if params.get("train_data") is None:
        raise ConfigError("'train_data' is not set: cold items and users can only be judged against it.")
    training = TrainingSplit(Path(params["train_data"]), schema, item_table.index_of, item_table.n_items)
    splits: dict[str, SplitFindings] = {}
    labelled: dict[str, Split] = {}
    users: dict[str, pa.Array] = {}
    levels: list[LevelFindings] = []
    for name in ("train", "valid", "test"):
        path = params.get(f"{name}_data")
        if path is None:
            continue
        split = read_split(path, uncut, item_table.item_ids, require_label=name != "test", progress=progress)
        if schema.group_id is not None:
            users[name] = _users(split.path, schema.group_id)
        splits[name] = _describe(split, training.users_per_item == 0, users.get(name))
        levels += _compare(name, split, own)
        if name != "test":  # test figures are for the model that was chosen
            labelled[name] = split
    shared = {(a, b): _count_shared(users, a, b) for a, b in combinations(users, 2)}
    modalities, vectors = _modalities(schema, sources, item_table, training.users_per_item, progress)
    worth = (
        worth_of(vectors, labelled["train"], labelled["valid"], training, progress=progress)
        if "valid" in labelled
        else []
    )
    return Findings(item_table.n_items, splits, shared, modalities, levels, worth)


def _describe(split: Split, nobody: np.ndarray, users: pa.Array | None) -> SplitFindings:
    target_counts = np.bincount(split.item, minlength=len(nobody))
    is_cold = (target_counts > 0) & nobody
    return SplitFindings(
        rows=len(split),
        label_share=None if split.label is None else float(split.label.mean(dtype=np.float64)),
        users=None if users is None else len(users),
        items=int((target_counts > 0).sum()),
        cold_items=int(is_cold.sum()),
        cold_rows=float(target_counts[is_cold].sum() / len(split)),
        length_counts=np.bincount(np.diff(split.history_offsets)),
        target_counts=target_counts,
    )


def _users(path: Path, group_id: str) -> pa.Array:
    """Distinct users as the file names them: a split numbers text ids for itself, so those cannot be compared."""
    return pc.unique(groups(open_parquet(path, (group_id,)).read([group_id]).column(0).combine_chunks()))


def _count_shared(users: Mapping[str, pa.Array], a: str, b: str) -> int:
    if users[a].type != users[b].type:
        raise DataError(f"users are {users[a].type} in {a} but {users[b].type} in {b}; one type is expected in both.")
    return int(pc.sum(pc.is_in(users[a], users[b])).as_py())


def _own_values(schema: DatasetSchema, sources: Sources, item_table: ItemTable) -> dict[str, np.ndarray]:
    """Context column -> (n_items + 1,) float64, the items' own numbers under that name, NaN where there is none."""
    own = {}
    for column in schema.context_columns:
        for path in (sources.item_feature, sources.item_info):
            if path is None or column.name not in (file := open_parquet(path, (sources.key_col,))).schema_arrow.names:
                continue
            values = file.read([column.name]).column(0).combine_chunks()
            if not NUMBER.admits(values.type):
                continue
            index = item_table.index_of(read_ids(path, column.name, sources.key_col))
            found = numbers(values)
            if column.type == "numeric":  # rounded as the split's own numbers are
                found = found.astype(np.float32)
            own[column.name] = np.full(item_table.n_items + 1, np.nan)
            own[column.name][index[index > 0]] = found[index > 0]
            break
    return own


def _compare(name: str, split: Split, own: Mapping[str, np.ndarray]) -> list[LevelFindings]:
    """Compare each column that items have too, and then all of them together."""
    agrees = {column: split.context[column] == own[column][split.item] for column in own}
    known = {column: ~np.isnan(own[column])[split.item] for column in own}
    sets = [(column,) for column in own] + ([tuple(own)] if len(own) > 1 else [])
    found = []
    for columns in sets:
        is_known = np.logical_and.reduce([known[column] for column in columns])
        if not is_known.any():
            continue
        agree = np.logical_and.reduce([agrees[column] for column in columns])[is_known]
        by_label = None
        if split.label is not None:
            positive = split.label[is_known] == 1
            if positive.any() and not positive.all():
                by_label = (float(agree[~positive].mean()), float(agree[positive].mean()))
        found.append(LevelFindings(name, columns, len(agree), float(agree.mean()), by_label))
    return found


def _modalities(
    schema: DatasetSchema, sources: Sources, item_table: ItemTable, users_per_item: np.ndarray, progress: bool
) -> tuple[dict[str, ModalityFindings], dict[str, ItemVectors]]:
    paths: dict[str, Path] = {}
    for column in schema.item_columns:
        if derivations := derivations_of(column):
            names = [name for derivation in derivations for name in derivation.modalities]
            paths.update({name: sources.file_of_modality(name) for name in names})
        elif column.type == "embedding":
            paths[column.name] = sources.file_of(column.name)
    found, vectors_of = {}, {}
    titles = _titles(sources, item_table)
    for name, path in paths.items():
        norms, dimension = [], 0
        with tqdm(total=item_table.n_items, desc=name, unit=" items", disable=None if progress else True) as bar:
            for ids, vectors, is_present in iter_vectors(path, name, sources.key_col):
                dimension = vectors.shape[1]
                is_item = (item_table.index_of(ids) > 0) & is_present
                norms.append(np.linalg.norm(vectors[is_item].astype(np.float64), axis=1))
                bar.update(len(ids))
        joined = np.concatenate(norms)
        spread, neighbours = None, {}
        if one := ItemVectors.read(path, name, sources.key_col, item_table):
            vectors_of[name] = one
            spread = (one.effective_rank, one.duplicated, one.near_mean)
            clicked = np.where(one.units.any(axis=1), users_per_item, -1)
            shown = np.argsort(-clicked, kind="stable")[:SHOWN]
            neighbours = {titles(item): [titles(other) for other in one.neighbours(item)] for item in shown}
        found[name] = ModalityFindings(dimension, item_table.n_items - len(joined), joined, spread, neighbours)
    return found, vectors_of


def _titles(sources: Sources, item_table: ItemTable) -> Callable[[int], str]:
    """What an item is called: by the first column of text whose name ends in title or name, else its id."""
    for path in (sources.item_info, sources.item_feature):
        if path is None:
            continue
        file = open_parquet(path)
        for column in file.schema_arrow:
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            if is_text and column.name.lower().endswith(("title", "name")):
                index = item_table.index_of(read_ids(path, column.name, sources.key_col))
                texts = dict(zip(index.tolist(), file.read([column.name]).column(0).to_pylist()))
                return lambda item: texts.get(int(item)) or str(item_table.item_ids[item - 1])
    return lambda item: str(item_table.item_ids[item - 1])
