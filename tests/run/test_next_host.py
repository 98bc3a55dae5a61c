"""FuxiCTR's next release removes its parquet loaders: a run of ours ends as before without any of its loaders."""

import subprocess
import sys
from pathlib import Path

from tests.run.test_resume import config  # noqa: F401

CODE = """
import importlib.abc, sys

class Removed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("fuxictr.pytorch.dataloaders"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Removed())
from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from fuxictr_mm.serve.prediction import predict_file

experiment = resolve_experiment("din", sys.argv[1], epochs=1, verbose=0)
result = run_experiment(experiment)
scored = predict_file(Trained.open(experiment), experiment["test_data"], sys.argv[1] + "/out.parquet", metrics=["AUC"])
assert abs(scored.metrics["AUC"] - result.test["AUC"]) < 1e-6
assert not [name for name in sys.modules if name.startswith("fuxictr.pytorch.dataloaders")]
print("ended")
"""


def test_nothing_of_ours_needs_the_hosts_loaders(config: Path) -> None:  # noqa: F811
    run = subprocess.run([sys.executable, "-c", CODE, str(config)], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["ended"], run.stderr
