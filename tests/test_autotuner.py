"""FuxiCTR's own tuner, unchanged, starts our script by subprocess (tests/experiments has our tuner)."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from fuxictr import autotuner

from tests.run.test_run import BASE, EXPERIMENTS
from tests.synthetic import write_cluster_dataset

SCRIPT = """
import sys
from pathlib import Path
from fuxictr_mm.cli import main
if __name__ == "__main__":
    main(["run", "--csv_dir", str(Path(__file__).resolve().parent), *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_grid_search_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_cluster_dataset(tmp_path, rows=600)
    (tmp_path / "dataset_config.yaml").write_text(yaml.safe_dump({"clusters": dataset}))
    base = {**BASE, "debug_mode": False, "epochs": 1}
    din = {**EXPERIMENTS["din"], "dataset_id": "clusters", "num_heads": 4}
    models = {"Base": base, "din": din}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(models))
    space = {"base_config": str(tmp_path), "base_expid": "din", "dataset_id": "clusters"}
    tuner = tmp_path / "sweep.yaml"
    tuner.write_text(yaml.safe_dump({**space, "tuner_space": {"num_heads": [1, 2]}}))
    (tmp_path / "run_expid.py").write_text(SCRIPT)
    # The tuner calls "python"; relative paths of its YAML start at the generated folder.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder = Path(autotuner.enumerate_params(str(tuner)))
    for file in ("train.parquet", "valid.parquet", "test.parquet", "items.parquet"):
        (folder / file).symlink_to(tmp_path / file)
    autotuner.grid_search(str(folder), [-1, -1], script=str(tmp_path / "run_expid.py"))

    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert len(rows) == 2
    assert all("[test] AUC: 0." in row for row in rows)
    checkpoints = folder / "checkpoints" / "clusters"
    assert len(list(checkpoints.glob("din_*.model"))) == 2
    assert len(list((folder / "processed" / "clusters").glob("item_emb-*.safetensors"))) == 1
