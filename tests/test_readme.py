"""README's examples of own data are trained as they are printed."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuxictr_mm import Ranker
from fuxictr_mm.cli import main
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


def commands(page: str, first: str) -> list[list[str]]:
    """The commands of the block of a page that begins with ``first``, as arguments behind the program's name."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S) if block.startswith(first))
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]


def write_log(folder: Path) -> None:
    """Clicks of 60 users, each of whom likes one of two kinds of things."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 60, 3000)
    item = rng.integers(0, 15, 3000) * 2 + user % 2
    log = pd.DataFrame({"user": user, "item": item, "time": rng.integers(0, 9999, 3000)})
    log.to_csv(folder / "clicks.csv", index=False)
    things = pd.DataFrame({"item": range(30), "title": [f"Thing {n}" for n in range(30)]})
    things.assign(kinds=[f"a|{'xy'[n % 2]}" for n in range(30)]).to_csv(folder / "items.csv", index=False)


@pytest.mark.slow
def test_a_log_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path)
    prepare, run = commands("README.md", "fuxictr-mm prepare")
    main(prepare)
    main(run)
    (result,) = tmp_path.glob("shop/checkpoints/shop/*.result.json")
    assert json.loads(result.read_text())["test"]["AUC"] > 0.9


def test_the_page_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame({"user": rng.integers(0, 60, 2000), "movie": rng.integers(0, 30, 2000)})
    ratings = ratings.assign(rating=rng.integers(1, 6, 2000), time=range(2000))
    ratings.to_csv(tmp_path / "ratings.tsv", sep="\t", index=False, header=False)
    films = pd.DataFrame({"movie": range(30), "title": [f"Film {n}" for n in range(30)]})
    films.to_csv(tmp_path / "movies.csv", index=False)
    (prepare,) = commands("dataset_config/README.md", "fuxictr-mm prepare")
    main(prepare)
    assert (tmp_path / "my_movies" / "config" / "model_config.yaml").is_file()
