"""README's own-data example is trained as it is printed."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuxictr_mm import Ranker
from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from tests import REPOSITORY


def write_logs(folder: Path) -> None:
    """The files and columns of README's table; items have one of two tastes, and users click what is of theirs."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 2, 60)
    vectors = {
        name: rng.normal(size=(2, width))[taste] + rng.normal(size=(60, width)) for name, width in WIDTHS.items()
    }
    columns = {name: pa.array(list(values.astype(np.float32))) for name, values in vectors.items()}
    pq.write_table(pa.table({"item_id": np.arange(1, 61), **columns}), folder / "items.parquet")
    for split in ("train", "valid"):
        users, targets = rng.integers(1, 40, 900), rng.integers(0, 60, 900)
        history = [rng.choice(np.flatnonzero(taste == user % 2), 4) + 1 for user in users]
        label = (rng.random(900) < np.where(taste[targets] == users % 2, 0.8, 0.2)).astype(np.int64)
        table = {"user_id": users, "item_id": targets + 1, "item_seq": pa.array(history), "label": label}
        pq.write_table(pa.table({**table, "hour": rng.integers(0, 24, 900)}), folder / f"{split}.parquet")


WIDTHS = {"text": 24, "image": 20}


def test_your_own_data(tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    dataset, model = re.findall(r"```yaml\n(.*?)```", readme, flags=re.S)
    (tmp_path / "my_config").mkdir()
    write_logs(tmp_path / "my_config")
    # README's folder lies in the repository, where paths begin; this one is its own beginning.
    (tmp_path / "my_config" / "dataset_config.yaml").write_text(dataset.replace("my_config/", ""))
    (tmp_path / "my_config" / "model_config.yaml").write_text(model)
    experiment = resolve_experiment("mine", tmp_path / "my_config", verbose=0, batch_size=64)
    result = run_experiment(experiment)
    assert result.valid["AUC"] > 0.6
    scores = Ranker(Trained.open(experiment)).score([3, 5], [7, 8, 9], {"hour": 12})
    assert scores.shape == (3,)
