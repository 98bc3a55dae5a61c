"""Rows per second of a training on an idle machine and beside two busy processes, by how OpenMP's threads wait.

``python benchmarks/busy.py`` trains the main job's model on generated data for a few seconds at a time, in processes of
their own. Busy processes multiply matrices, with as many threads as there are cores, as another training would. Every
tool of this package sets ``GOMP_SPINCOUNT=1000``, unless that or ``OMP_WAIT_POLICY`` is set.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, median_and_spread, write
from tqdm import tqdm

BUSY = "import torch\na = torch.ones(600, 600)\nwhile True:\n    a @ a\n"
POLICIES: dict[str, dict[str, str]] = {
    "without spinning (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "after 1,000 spins (ours)": {"GOMP_SPINCOUNT": "1000"},
    "after 10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "as libgomp has it": {},
}


def train(folder: Path, seconds: float) -> None:
    """Train for a while; prints the rows per second of the steps alone."""
    from importlib import import_module

    from fuxictr_mm.data.loader import MMCTRDataLoader
    from fuxictr_mm.models.registry import register
    from fuxictr_mm.run import Experiment
    from fuxictr_mm.run.build import build_model
    from fuxictr_mm.run.run import build_features

    register(import_module("model_zoo"))
    shipped = Experiment.load("Transformer_DCNv2_quick")
    files = ("train_data", "valid_data", "test_data", "item_info", "item_feature")
    paths = {key: str(folder / Path(shipped[key]).name) for key in files}
    experiment = shipped.but(**paths, data_root=str(folder), model_root=str(folder), verbose=0)
    feature_map, _ = build_features(dict(experiment.params))
    loader = MMCTRDataLoader(feature_map, experiment["train_data"], **{**experiment.params, "split": "train"})
    model = build_model(experiment, feature_map)
    model.train()
    model._max_gradient_norm, model._steps_per_epoch = 10.0, len(loader)
    model.lr_schedule = "constant"
    rows, started = 0, 0.0
    for number, batch in enumerate(loader):
        if number == 3:  # the first steps warm up
            rows, started = 0, time.perf_counter()
        model.train_step(batch)
        rows += len(batch[0]["label"])
        if number > 3 and time.perf_counter() - started > seconds:
            break
    print(rows / (time.perf_counter() - started))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.seconds)  # nothing of this package's command is imported, which would set the policy
        return
    from fuxictr_mm.demo.generator import DemoSettings, generate_demo

    rates: dict[tuple[str, int], list[float]] = {}
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    with tempfile.TemporaryDirectory() as name, tqdm(total=2 * len(POLICIES) * args.rounds, desc="trainings") as bar:
        folder = Path(name) / "demo"
        generate_demo(folder, DemoSettings(items=200, rows=90_000, valid_rows=400, test_rows=400))
        for _ in range(args.rounds):
            for policy, variables in POLICIES.items():
                for others in (0, 2):
                    environment = {**plain, **variables}
                    busy = [subprocess.Popen([sys.executable, "-c", BUSY], env=environment) for _ in range(others)]
                    command = [sys.executable, __file__, "--train", str(folder), "--seconds", str(args.seconds)]
                    try:
                        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    finally:
                        for process in busy:
                            process.kill()
                            process.wait()
                    rates.setdefault((policy, others), []).append(float(ended.stdout.splitlines()[-1]))
                    bar.update()
    rows = [
        {"threads wait": policy, "busy processes": others, "rows/s": median_and_spread(found)}
        for (policy, others), found in rates.items()
    ]
    write("busy", {"seconds": args.seconds, "rounds": args.rounds}, rows, args.out)


if __name__ == "__main__":
    main()
