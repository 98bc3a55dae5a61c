"""A log and items to a data set that trains: numbered ids, histories as of each row, splits, negatives, YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from fuxictr_mm.config.keys import FileName, NonNegative, NonNegativeNumber, Positive, check_arguments, check_value
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.files import temporary_folder, write_json
from fuxictr_mm.prepare.catalogue import Catalogue
from fuxictr_mm.prepare.columns import Encoded
from fuxictr_mm.prepare.log import Ids, Log
from fuxictr_mm.prepare.rows import SPLITS, Rows

__all__ = ["Prepared", "prepare"]

MARKER = "prepared.json"
# Fewer users than this cannot be told apart in folds, which own clicks need.
LEAST_USERS = 50


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` has written.

    Attributes:
        folder: of the files.
        name: dataset id.
        users, items: how many have a number.
        rows: split -> number of rows.
        clicked: split -> share of label 1.
        notes: what was dropped, kept or decided, a sentence each.
    """

    folder: Path
    name: str
    users: int
    items: int
    rows: Mapping[str, int]
    clicked: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=list)

    def to_text(self) -> str:
        """For people, with the commands that come next."""
        lines = [f"{self.name}: {self.users:,} users and {self.items:,} items in {self.folder}"]
        lines += [f"  {one:<6} {self.rows[one]:>12,} rows, {100 * self.clicked[one]:.1f} % clicked" for one in SPLITS]
        lines += [f"  - {note}" for note in self.notes]
        config = self.folder / "config"
        lines += ["next:", f"  fuxictr-mm inspect --dataset {self.name} --config {config}"]
        return "\n".join([*lines, f"  fuxictr-mm run --expid DIN_SE_MHTA_{self.name} --config {config}"])


@check_arguments
def prepare(
    interactions: Any,
    out: str | Path,
    *,
    user: str,
    item: str,
    time: str | None = None,
    items: Any = None,
    label: str | None = None,
    rating: str | None = None,
    positive: float = 4,
    split: Literal["time", "last", "column", "cold"] = "time",
    valid_share: NonNegativeNumber = 0.1,
    test_share: NonNegativeNumber = 0.1,
    last: Positive = 1,
    split_column: str | None = None,
    sessions: NonNegativeNumber | None = None,
    max_len: Positive = 50,
    n_negatives: NonNegative = 0,
    power: NonNegativeNumber = 0.75,
    popularity: bool = False,
    drop: Sequence[str] = (),
    names: Sequence[str] | None = None,
    separator: str | None = None,
    vectors: Mapping[str, str] | None = None,
    seed: NonNegative = 1,
    name: FileName | None = None,
) -> Prepared:
    """Write a data set that the loader reads, and a config directory in which both models train on it.

    A row's history is what its user has clicked strictly before it: never the row's own click, none of its own time,
    none later. Further columns of the log become context features, those of the item table features of the items.

    Args:
        interactions: the log, see :func:`~fuxictr_mm.prepare.reading.read_table`.
        out: folder to write; one that an earlier call wrote is replaced.
        user, item, time: names of columns. Without a time the order of the rows is taken for it.
        items: the item table; its column of ids is called as in the log.
        label: column of 0 and 1; rows of both are kept as they are.
        rating: column of numbers; from ``positive`` on they are clicks. Without label and rating every row is a click.
        split: ``"time"``: the latest rows; ``"last"``: the last clicks of each user; ``"column"``; or ``"cold"``: a
            share of the items with every click of them, which training never sees.
        valid_share, test_share: of the rows by time, or of the items.
        last: clicks of each user in valid, and as many in test.
        split_column: has train, valid and test, or 0, 1 and 2.
        sessions: a history goes back only as far as something followed within so much time (seconds of numbers,
            microseconds of dates).
        max_len: most items of a history.
        n_negatives: items per click that its user has clicked at no time, drawn by clicks until then to ``power``.
        popularity: add deciles of training clicks as a column of the items.
        drop: columns of the log to leave out.
        names, separator: of a log without a header.
        vectors: name -> ``.npy`` file with one row per item, in the order of ``items``.
        seed: of all that is drawn.
        name: dataset id; default: that of the folder.

    Raises:
        DataError: a column is missing, an id, a time or a label cannot be read, or a split would be empty or have one
            class; nothing is written then.
        ConfigError: options do not go together, or ``out`` has files that were not written here.
    """
    out = Path(out)
    name = out.resolve().name if name is None else name
    check_value("name", FileName, name)
    _check(out, split, split_column, label, rating, valid_share + test_share)
    with tqdm(total=5, desc="read", disable=None) as bar:

        def now(what: str) -> None:
            bar.update()
            bar.set_description(what)

        log = Log.read(
            interactions, user=user, item=item, time=time, label=label, rating=rating, positive=positive, names=names,
            separator=separator,
        )  # fmt: skip
        catalogue = Catalogue.of(log, items, item, vectors)
        log = catalogue.restrict(log)
        now("split")
        users = Ids.of(log.user)
        rows = Rows(log, users, catalogue.ids)
        rows.split_by(split, valid_share, test_share, last, split_column, seed)
        if n_negatives:
            rows.add_negatives(n_negatives, power, seed)
        rows.check()
        now("columns")
        read = (user, item, time, label, rating, split_column, *drop)
        contexts = rows.contexts({column for column in read if column is not None})
        features = catalogue.features(rows.training_clicks if popularity else None)
        now("write")
        with temporary_folder(out) as folder:
            made = folder / "made"
            (made / "config").mkdir(parents=True)
            rows.write(made, contexts, max_len, sessions)
            catalogue.write(made / "items.parquet", features)
            users.write(made / "user_ids.parquet", "user_id")
            catalogue.ids.write(made / "item_ids.parquet", "item_id")
            counted = len(users.originals), len(catalogue.ids.originals)
            _write_yaml(made / "config", name, contexts, features, counted, max_len)
            of_columns = [one.note for one in (*contexts, *features) if one.note]
            found = Prepared(
                out, name, *counted,
                {one: int((rows.split == at).sum()) for at, one in enumerate(SPLITS)},
                {one: float(rows.label[rows.split == at].mean()) for at, one in enumerate(SPLITS)},
                [*log.notes, *catalogue.notes, *rows.notes, *of_columns],
            )  # fmt: skip
            maps = {one.values.name: one.values_of_ids for one in (*contexts, *features) if one.values_of_ids}
            write_json(made / MARKER, {"rows": found.rows, "notes": found.notes, "values_of_ids": maps})
            now("put in place")
            if out.exists():
                out.rename(folder / "before")
            made.rename(out)
        now("done")
    return found


def _check(
    out: Path, split: str, split_column: str | None, label: str | None, rating: str | None, shares: float
) -> None:
    if out.exists() and not (out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"--out {out}: has files that were not written by prepare; choose another folder.")
    if (split == "column") != (split_column is not None):
        raise ConfigError("split: column and split_column, the name of that column, go together.")
    if label is not None and rating is not None:
        raise ConfigError("label and rating are both given; one of them says what a click is.")
    if split in ("time", "cold") and not 0 < shares < 1:
        raise ConfigError(f"valid_share and test_share are {shares:g} together; less than 1 leaves rows for train.")


def _write_yaml(
    folder: Path,
    name: str,
    contexts: Sequence[Encoded],
    features: Sequence[Encoded],
    counted: tuple[int, int],
    max_len: int,
) -> None:
    """``dataset_config.yaml`` and ``model_config.yaml`` with the options to begin with."""
    specs = [one.spec for one in features if one.spec is not None]
    vectors = {spec["modality"]: spec["pca"] for spec in specs if "modality" in spec}
    columns: list[dict[str, Any]] = [{"name": "user_id", "active": True, "dtype": "int", "type": "meta"}]
    columns += [one.spec for one in contexts if one.spec is not None]
    columns += [{"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"}]
    columns += [spec for spec in specs if "modality" not in spec]
    of_items: dict[str, Any] = {"active": True, "dtype": "float", "source": "item"}
    of_vectors = {**of_items, "pca": vectors}
    similarity = []
    if vectors:
        columns.append({"name": "item_emb", "type": "embedding", "embedding_dim": 32, **of_vectors})
        columns.append({"name": "item_vectors", "type": "meta", **of_vectors, "pca_whiten": 0.5})
        similarity.append("item_vectors")
    # Own clicks need more users and items than they are wide, also without the users of two folds of five.
    if counted[0] >= LEAST_USERS and counted[1] >= 4:
        width = min(64, min(counted) // 2)
        columns.append({"name": "item_peers", "type": "meta", **of_items, "pca_whiten": True, "clicks": width})
        similarity.append("item_peers")
    dataset = {
        "data_root": "../processed", "data_format": "parquet", "rebuild_dataset": False,
        **{f"{split}_data": f"../{split}.parquet" for split in SPLITS}, "item_info": "../items.parquet",
        "item_col": "item_id", "history_col": "item_seq", "group_id": "user_id", "min_categr_count": 1,
        "feature_cols": columns, "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    base = {
        "model_root": "../checkpoints", "dataset_id": name, "verbose": 1, "seed": 1,
        "metrics": ["AUC", "logloss", "gAUC"], "monitor": "AUC", "monitor_mode": "max", "early_stop_patience": 2,
        "loss": "binary_crossentropy", "optimizer": "adam", "embedding_dim": 16, "max_len": max_len,
        "net_dropout": 0.1, "learning_rate": 1.0e-3, "lr_schedule": "linear", "batch_size": 512, "epochs": 3,
    }  # fmt: skip
    if similarity:
        base |= {"similarity": similarity, "id_dropout": 0.1}
    models = {
        f"DIN_SE_MHTA_{name}": {"model": "DIN_SE_MHTA", **base, "dnn_hidden_units": [256, 128]},
        f"Transformer_DCNv2_{name}": {
            "model": "Transformer_DCNv2", **base, "transformer_layers": 1, "num_heads": 1, "dim_feedforward": 128,
            "first_k_cols": 4, "dcn_hidden_units": [256, 128], "mlp_hidden_units": [64, 32],
        },
    }  # fmt: skip
    for file, content in (("dataset_config", {name: dataset}), ("model_config", models)):
        text = yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True)
        (folder / f"{file}.yaml").write_text(text, encoding="utf-8")
