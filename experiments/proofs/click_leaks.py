"""Do click vectors tell a training row its own label? Logs in which nothing is to be learned, and three real data sets.

``python proofs/click_leaks.py`` makes logs whose labels are drawn by lot, and measures by AUC what every number that
training compares by click vectors says of the label: 0.50 within ``WITHIN`` is nothing. On the real data sets that
``FUXICTR_MM_REAL_DATA`` holds it looks at the targets nothing is known of: which share of them is clicked, in training
and in scoring. It writes ``results/click_leaks.{md,csv}``, and ends with status 1 if a number tells the label.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.features.processor import MultimodalFeatureProcessor
from fuxictr_mm.models.item_vectors import ItemVectors
from fuxictr_mm.run.evaluation import unknown_targets
from fuxictr_mm.run.provenance import current_commit, machine
from fuxictr_mm.study.runs import this_command
from fuxictr_mm.study.tables import markdown_table, write_csv, write_text

HERE = Path(__file__).resolve().parents[1]
WITHIN = 0.01
# Name of a log -> users, items, clicks per user, exponent of popularity, and what multiplies the users' ids.
LOGS = {
    "every item clicked often": (4000, 400, 12, 0.0, 1),
    "most items clicked once or never": (8000, 40_000, 6, 0.0, 1),
    "a long tail": (6000, 20_000, 8, 0.9, 1),
    "users' ids are multiples of ten": (4000, 2000, 12, 0.5, 10),
}
CONTENT = {"ml1m": "txt_emb_MiniLM", "tiktok": "img_emb_TikTok", "lfm2k": "txt_emb_MiniLM"}


def columns_of(content: str) -> list[dict[str, Any]]:
    vectors = {"active": True, "dtype": "float", "type": "meta", "source": "item", "clicks": 16}
    return [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
        {**vectors, "name": "own", "pca_whiten": True},
        {**vectors, "name": "expected", "pca": {content: 16}},
    ]


def write_log(
    folder: Path, users: int, items: int, steps: int, exponent: float, factor: int, seed: int
) -> dict[str, str]:
    """A click and an item that was shown and not clicked per step, both drawn by the same lot; contents by another."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1.0, items + 1) ** -exponent
    drawn = 1 + rng.choice(items, (users, steps, 2), p=popularity / popularity.sum())
    rows: dict[str, list[Any]] = {"user_id": [], "item_id": [], "item_seq": [], "label": []}
    for user, of_user in enumerate(drawn):
        for step, shown in enumerate(of_user.tolist()):
            rows["user_id"] += [factor * user] * 2
            rows["item_id"] += shown
            rows["item_seq"] += [of_user[:step, 0].tolist()] * 2
            rows["label"] += [1, 0]
    pq.write_table(pa.table(rows), folder / "train.parquet")
    content = list(rng.normal(size=(items, 16)).astype(np.float32))
    pq.write_table(pa.table({"item_id": np.arange(1, items + 1), "content": content}), folder / "items.parquet")
    return {"train": str(folder / "train.parquet"), "items": str(folder / "items.parquet")}


def open_splits(folder: Path, content: str, items: str, **splits: str) -> tuple[Any, dict[str, MMCTRDataLoader]]:
    """A model that only compares, and loaders of the splits."""
    params: dict[str, Any] = {
        "feature_cols": columns_of(content), "label_col": {"name": "label", "dtype": "float"}, "dataset_id": "log",
        "data_root": folder, "rebuild_dataset": False, "item_info": items, "train_data": splits["train"],
        "group_id": "user_id", "similarity": ["own", "expected"],
    }  # fmt: skip
    processor = MultimodalFeatureProcessor(**params)
    processor.fit()
    loaders = {
        split: MMCTRDataLoader(processor.feature_map, path, batch_size=4096, similarity=["own", "expected"])
        for split, path in splits.items()
    }
    return SimpleNamespace(vectors=ItemVectors(processor.feature_map, ["own", "expected"], "item_id")), loaders


def aucs_of(name: str, seed: int) -> dict[str, Any]:
    """Of each column: AUC of "the target is known", of the mean and of the largest known cosine."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_log(Path(folder), *LOGS[name], seed)
        model, loaders = open_splits(Path(folder), "content", **files)
        torch.manual_seed(seed)
        parts: list[list[np.ndarray]] = []
        for batch in tqdm(loaders["train"], desc=name, disable=None):
            cosine_BLM, is_known_BLM = model.vectors.compare(batch, True)
            known = is_known_BLM.sum(dim=1)
            mean = (cosine_BLM * is_known_BLM).sum(dim=1) / known
            largest = cosine_BLM.masked_fill(~is_known_BLM, -2.0).max(dim=1).values.masked_fill(known == 0, torch.nan)
            statistics = (batch.context["label"], model.vectors.known_targets(batch, True), mean, largest)
            parts.append([values.numpy() for values in statistics])
    label, *found = (np.concatenate(part) for part in zip(*parts))
    row: dict[str, Any] = {"log": name, "rows": len(label)}
    for m, column in enumerate(("own", "expected")):
        for statistic, values in zip(("known", "mean", "largest"), (v[:, m] for v in found)):
            is_number = ~np.isnan(values)
            row[f"{column}: {statistic}"] = float(roc_auc_score(label[is_number], values[is_number]))
        if column == "own":
            row["known targets"] = float(found[0][:, m].mean())
    return row


def shares_of(dataset: str, folder: Path) -> list[dict[str, Any]]:
    """Of each split: how many targets have no own clicks to compare, and which share of them is clicked."""
    files = {split: str(folder / f"{split}.parquet") for split in ("valid", "test")}
    small = folder / "train_small.parquet"
    files["train"] = str(small if small.exists() else folder / "train.parquet")
    with tempfile.TemporaryDirectory() as out:
        model, loaders = open_splits(Path(out), CONTENT[dataset], str(folder / "item_feature.parquet"), **files)
        torch.manual_seed(0)
        found = {split: unknown_targets(model, loaders[split], split == "train")["own"] for split in sorted(files)}
    order = ("train", "valid", "test")
    names = {"rows": "rows without", "label_share": "clicked of them", "known_label_share": "clicked of the others"}
    return [{"data": dataset, "split": s, **{names[key]: v for key, v in found[s].items()}} for s in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--logs", nargs="+", default=list(LOGS), help="names of logs")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the tables")
    args = parser.parse_args()
    rows = [aucs_of(name, seed) for seed, name in enumerate(args.logs)]
    auc_columns = [key for key in rows[0] if ": " in key]
    telling = [f"{row['log']}, {key}" for row in rows for key in auc_columns if abs(row[key] - 0.5) > WITHIN]
    data = os.environ.get("FUXICTR_MM_REAL_DATA")
    folders = {name: Path(data) / name for name in CONTENT} if data else {}
    shares = [row for name, folder in folders.items() if folder.is_dir() for row in shares_of(name, folder)]
    text = [
        "AUC, on logs whose labels are drawn by lot, of what training compares by own and by expected clicks: is the "
        "target\nknown, the mean and the largest cosine.\n",
        markdown_table(rows),
        f"Further than {WITHIN} from 0.5: {len(telling)} of {len(rows) * len(auc_columns)}.\n",
    ]
    if shares:
        text += ["Targets without own clicks, in training (without two fifths of the users) and in scoring.\n"]
        text += [markdown_table(shares)]
    text.append(f"Command: `{this_command()}`; commit {current_commit()}; {machine()}.\n")
    write_text(args.output / "click_leaks.md", "\n".join(text))
    write_csv(args.output / "click_leaks.csv", list(rows[0]), rows)
    print("\n".join(text))
    if telling:
        sys.exit(f"these tell the label: {'; '.join(telling)}")


if __name__ == "__main__":
    main()
