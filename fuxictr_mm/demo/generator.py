"""MMCTR_demo on disk: the challenge's files, generated (:mod:`fuxictr_mm.demo.world` says from what).

Everything streams by blocks of items and of users, so that memory does not grow with the number of rows. Equal
settings give equal bytes on one machine with one set of library versions.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tqdm import tqdm

from fuxictr_mm.config.keys import MOST
from fuxictr_mm.demo.world import CANDIDATES, TAG_SLOTS, Impressions, World
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.derive.pca import ModalityPCA
from fuxictr_mm.files import atomic_write, temporary_folder
from fuxictr_mm.forms import numbers
from fuxictr_mm.parquet import open_parquet

__all__ = ["DEMOS", "DemoSettings", "best_auc", "ensure_demo", "generate_demo", "summary"]

# Raise it whenever the same settings give other bytes: ensure_demo then makes the files anew.
FORMAT = 2
MARKER = "demo.json"
HISTORY_SLOTS = 64
JOINT_WIDTH = 128
ITEM_BLOCK = 8192
USER_BLOCK = 4096
MAX_TAGS = 11739

_LIST = pa.list_(pa.int64())
_VECTOR = pa.list_(pa.float32())
ITEM_INFO = pa.schema({"item_id": pa.int64(), "item_tags": _LIST, "item_emb_d128": _VECTOR})
ITEM_FEATURE = pa.schema(
    {
        "item_id": pa.int64(),
        "item_title": pa.string(),
        "item_tags": _LIST,
        "likes_level": pa.int64(),
        "views_level": pa.int64(),
        "txt_emb_BERT": _VECTOR,
        "img_emb_CLIPRN50": _VECTOR,
    }
)
ROWS = pa.schema(
    {
        "user_id": pa.int64(),
        "item_seq": _LIST,
        "item_id": pa.int64(),
        "likes_level": pa.int64(),
        "views_level": pa.int64(),
        "label": pa.int64(),
    }
)
TEST_ROWS = pa.schema([pa.field("ID", pa.int64()), *ROWS])
TRUTH = pa.schema({"split": pa.string(), "row": pa.int64(), "probability": pa.float64()})
FILES = (
    "train.parquet",
    "valid.parquet",
    "test.parquet",
    "item_info.parquet",
    "item_feature.parquet",
    "truth.parquet",
)


@dataclass(frozen=True)
class DemoSettings:
    """What a demo is made from; the defaults are MMCTR_demo, the challenge's own counts stand in brackets.

    Args:
        items: number of items (91,717).
        users: ids run from 1 to this number, each in one impression of four rows; ``None``: as many as the rows need
            (1,000,000).
        rows, valid_rows, test_rows: rows per split (3,600,000, 10,000, 379,142); where four does not divide a number,
            the last impression is cut short.
        seed: of everything.
        text_width, image_width: widths of the two raw vectors (768, 1024).
        history_median, history_max: median and longest of the history lengths (6, 64), which are log-normal with a mean
            of 4/3 of the median before they are cut. The default is longer than the challenge's, so that old clicks
            have something to tell.
        leaky_levels: rows show the levels of the clicked item instead of their own.

    Raises:
        ConfigError: a number is too small or too large to make a world of.
    """

    items: int = 2000
    users: int | None = None
    rows: int = 160_000
    valid_rows: int = 12_000
    test_rows: int = 36_000
    seed: int = 20242025
    text_width: int = 96
    image_width: int = 128
    history_median: float = 14
    history_max: int = 20
    leaky_levels: bool = False

    def __post_init__(self) -> None:
        # Fewer items and some user could have nothing left to be shown.
        least = {"items": 200, "rows": 4, "valid_rows": 4, "test_rows": 4, "text_width": 1, "image_width": 1}
        for name, low in {**least, "history_median": 1, "history_max": 1, "seed": 0}.items():
            if not getattr(self, name) >= low:  # so that NaN is too small as well
                raise ConfigError(f"{name}={getattr(self, name)} is too small for a demo; use at least {low}.")
            if getattr(self, name) > MOST:
                raise ConfigError(f"{name}={getattr(self, name)} is too large for a demo; use at most {MOST}.")
        if self.history_max > HISTORY_SLOTS:
            raise ConfigError(
                f"history_max={self.history_max} does not fit the {HISTORY_SLOTS} slots of item_seq; use a smaller one."
            )
        if self.users is not None and self.users < self.impressions:
            raise ConfigError(
                f"users={self.users} is too few: rows, valid_rows and test_rows make {self.impressions} impressions, "
                "each of another user; use more users or fewer rows."
            )

    @property
    def splits(self) -> dict[str, int]:
        """Rows per split, in the order in which users are given out."""
        return {"train": self.rows, "valid": self.valid_rows, "test": self.test_rows}

    @property
    def impressions(self) -> int:
        return sum(_impressions(rows) for rows in self.splits.values())


# Dataset id -> what it is made from. The first stands in for the challenge's files in the main job, so it is small; the
# second is what the repository's results are from.
DEMOS = {
    "MMCTR_quick": DemoSettings(
        items=200, rows=90_000, valid_rows=8_000, test_rows=12_000, text_width=48, image_width=64
    ),
    "MMCTR_demo": DemoSettings(),
}


def generate_demo(out_dir: str | Path, settings: DemoSettings = DemoSettings()) -> None:
    """Write ``train, valid, test, item_info, item_feature, truth`` (.parquet) and ``demo.json`` into ``out_dir``.

    Columns and dtypes are the challenge's, with one difference: ``test.parquet`` has a ``label`` beside its ``ID``,
    because a stand-in's test has to be scored here. ``truth.parquet`` holds split, row and
    E[label | what the row shows].

    All files are made in a temporary folder and renamed at the end, so an interrupted run leaves nothing behind.

    Raises:
        DataError: ``out_dir`` holds files of these names that were not generated.
    """
    out = Path(out_dir)
    foreign = [name for name in FILES if (out / name).exists()] if not (out / MARKER).exists() else []
    if foreign:
        raise DataError(
            f"{out / foreign[0]}: exists and was not generated (there is no {MARKER} beside it); "
            "choose another folder, or move the file away."
        )
    # With more threads a matrix product adds up in another order, and its last bits change.
    with threadpool_limits(limits=1), temporary_folder(out) as temporary:
        world = World(
            settings.items,
            seed=settings.seed,
            tags=min(MAX_TAGS, settings.items // 8),
            text_width=settings.text_width,
            image_width=settings.image_width,
            history_median=settings.history_median,
            history_max=settings.history_max,
            leaky_levels=settings.leaky_levels,
        )
        _write_items(temporary, world, settings)
        _write_splits(temporary, world, settings)
        out.mkdir(exist_ok=True)
        # A marker without settings while files of two demos may lie side by side: ensure_demo will not take it.
        _write_marker(out, {})
        for file in FILES:
            os.replace(temporary / file, out / file)
        _write_marker(out, _recipe(settings))


def ensure_demo(out_dir: str | Path, settings: DemoSettings = DemoSettings()) -> dict[str, object]:
    """Generate the demo unless ``out_dir`` holds a whole one of this format; several processes may call it at once.

    A demo that was made with other settings is kept: whoever made it wants to train on it.

    Returns:
        the settings that differ from ``settings``, name -> value; empty for a demo made with exactly these.

    Raises:
        DataError: ``out_dir`` holds files of these names that were not generated.
    """
    out = Path(out_dir)
    if _recipe_on_disk(out) is None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.parent / f".{out.name}.lock"):
            if _recipe_on_disk(out) is None:
                generate_demo(out, settings)
    found = _recipe_on_disk(out) or {}
    return {name: value for name, value in found.items() if value != _recipe(settings)[name]}


def best_auc(data_path: str | Path) -> float | None:
    """Return the AUC that the true click probability scores on a split, the best that any model can hope for.

    Args:
        data_path: a split file; ``None`` is returned where no ``truth.parquet`` beside it speaks of that split, and
            where it has no label.

    Raises:
        DataError: the truth has other columns or values, or another number of rows than the split.
    """
    path = Path(data_path)
    truth_path = path.with_name("truth.parquet")
    if not truth_path.is_file():
        return None
    truth = open_parquet(truth_path, ("split", "probability")).read(["split", "probability"])
    again = "generate the demo again, or move that file away"
    kinds = [truth.schema.field(name).type for name in ("split", "probability")]
    if not (pa.types.is_string(kinds[0]) or pa.types.is_large_string(kinds[0])) or not pa.types.is_floating(kinds[1]):
        raise DataError(
            f"{truth_path}: columns split and probability are {kinds[0]} and {kinds[1]}, expected text and numbers; "
            f"{again}."
        )
    probability = truth.filter(pc.equal(truth["split"], path.stem))["probability"].to_numpy()
    if not len(probability) or "label" not in (table := open_parquet(path)).schema_arrow.names:
        return None
    if table.num_rows != len(probability):
        found = f"{len(probability)} rows of split {path.stem}, but {path.name} has {table.num_rows}"
        raise DataError(f"{truth_path}: {found}; {again}.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise DataError(f"{truth_path}: a probability of split {path.stem} is not between 0 and 1; {again}.")
    return float(roc_auc_score(numbers(table.read(["label"]).column(0).combine_chunks()), probability))


def _write_items(out: Path, world: World, settings: DemoSettings) -> None:
    blocks = [
        (block, first, min(first + ITEM_BLOCK, world.items + 1))
        for block, first in enumerate(range(1, world.items + 1, ITEM_BLOCK))
    ]
    width = min(JOINT_WIDTH, settings.text_width + settings.image_width, world.items)
    pca = ModalityPCA(n_components=width)
    with _writer(out / "item_feature.parquet", ITEM_FEATURE) as writer:
        for block, first, last in tqdm(blocks, desc="item vectors", unit="block", disable=None):
            text, image = world.views(first, last, block)
            pca.partial_fit(np.hstack([text, image]))
            columns = [
                np.arange(first, last),
                [_title(world, item) for item in range(first, last)],
                _lists(world.tags[first:last]),
                world.levels[first:last, 0],
                world.levels[first:last, 1],
                _lists(text),
                _lists(image),
            ]
            writer.write_table(_table(columns, ITEM_FEATURE))
    padding = [np.zeros(1, np.int64), _lists(np.zeros((1, TAG_SLOTS), np.int64)), _lists(np.zeros((1, width)))]
    with _writer(out / "item_info.parquet", ITEM_INFO) as writer:
        writer.write_table(_table(padding, ITEM_INFO))
        for block, first, last in tqdm(blocks, desc="item_emb_d128", unit="block", disable=None):
            # Made a second time, which is cheaper than holding or reading back all of them.
            joint = pca.transform(np.hstack(world.views(first, last, block)))
            columns = [np.arange(first, last), _lists(world.tags[first:last]), _lists(joint)]
            writer.write_table(_table(columns, ITEM_INFO))


def _title(world: World, item: int) -> str:
    return f"Video {item} on topic {world.topic[item]}"


def _write_splits(out: Path, world: World, settings: DemoSettings) -> None:
    users = settings.users or settings.impressions
    user_ids = np.random.default_rng([settings.seed, 0]).permutation(users)[: settings.impressions] + 1
    progress = tqdm(total=sum(settings.splits.values()), desc="rows", unit="row", unit_scale=True, disable=None)
    with progress, _writer(out / "truth.parquet", TRUTH) as truth:
        for split, rows in settings.splits.items():
            ids, user_ids = np.split(user_ids, [_impressions(rows)])
            schema = TEST_ROWS if split == "test" else ROWS
            with _writer(out / f"{split}.parquet", schema) as writer:
                for block, first in enumerate(range(0, len(ids), USER_BLOCK)):
                    part = ids[first : first + USER_BLOCK]
                    made = world.impressions(len(part), split=split, block=block)
                    start = first * CANDIDATES
                    count = min(rows - start, len(part) * CANDIDATES)
                    row = np.arange(start, start + count)
                    columns = [column[:count] for column in _row_columns(part, made)]
                    writer.write_table(_table([row, *columns] if split == "test" else columns, schema))
                    names = pa.array([split] * count)
                    truth.write_table(_table([names, row, made.truth.reshape(-1)[:count]], TRUTH))
                    progress.update(count)


def _row_columns(users: np.ndarray, made: Impressions) -> list[pa.Array | np.ndarray]:
    history = np.zeros((len(users), HISTORY_SLOTS), np.int64)
    history[:, HISTORY_SLOTS - made.history.shape[1] :] = made.history
    return [
        np.repeat(users, CANDIDATES),
        _lists(np.repeat(history, CANDIDATES, axis=0)),
        made.item.reshape(-1),
        made.levels[..., 0].reshape(-1),
        made.levels[..., 1].reshape(-1),
        made.label.reshape(-1),
    ]


def _lists(rows: np.ndarray) -> pa.Array:
    """(N, width) -> N lists, without a Python loop."""
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    values = rows.astype(np.float32) if rows.dtype.kind == "f" else rows
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values).reshape(-1))


def _table(columns: list, schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(c) if not isinstance(c, pa.Array) else c for c in columns], schema=schema)


@contextmanager
def _writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer


def _impressions(rows: int) -> int:
    return -(-rows // CANDIDATES)


def _recipe(settings: DemoSettings) -> dict[str, object]:
    return {"format": FORMAT, **asdict(settings)}


def _write_marker(out: Path, recipe: dict[str, object]) -> None:
    with atomic_write(out / MARKER) as path:
        path.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def _recipe_on_disk(out: Path) -> dict[str, object] | None:
    """What the demo in ``out`` was made with; ``None`` where there is no whole demo of this format."""
    if not all((out / name).is_file() for name in (MARKER, *FILES)):
        return None
    recipe = json.loads((out / MARKER).read_text(encoding="utf-8"))
    return recipe if recipe.get("format") == FORMAT and recipe.keys() == _recipe(DemoSettings()).keys() else None


def summary(out: Path, settings: DemoSettings) -> str:
    """A line per split of generated data: rows, label share, share of cold targets, and the best possible AUC."""
    lines = [f"{'split':<7}{'rows':>11}{'label share':>13}{'cold share':>12}{'best AUC':>10}"]
    train_items = pq.read_table(out / "train.parquet", columns=["item_id"])["item_id"].unique().to_numpy()
    for split in settings.splits:
        table = pq.read_table(out / f"{split}.parquet", columns=["item_id", "label"])
        cold = 1 - np.isin(table["item_id"].to_numpy(), train_items).mean()
        label, best = table["label"].to_numpy().mean(), best_auc(out / f"{split}.parquet")
        lines.append(f"{split:<7}{len(table):>11,}{label:>13.4f}{cold:>12.4f}{best:>10.4f}")
    return "\n".join(lines)
