"""Kill training at random moments, resume it, and compare with a run that was left alone.

``python proofs/kill_and_resume.py --kills 30`` trains small models on generated data in a temporary folder and writes
``results/kill_and_resume.md``: every killed and resumed run must end with the same weights, bit for bit, and the same
metrics. Every third run is killed while a checkpoint is being written, every fifth one a second time after resuming; a
run that ends before it is killed is repeated.
"""

import argparse
import multiprocessing
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tqdm import tqdm

from fuxictr_mm.demo.generator import DemoSettings, generate_demo
from fuxictr_mm.files import atomic_write
from fuxictr_mm.models.registry import register
from fuxictr_mm.run import Experiment, finished_result, run_experiment
from fuxictr_mm.run.provenance import current_commit, machine
from fuxictr_mm.training.checkpoint import read_file, read_weights
from fuxictr_mm.training.progress import state_file

HERE = Path(__file__).resolve().parents[1]
ENDED = "had ended"
EXPIDS = ("Transformer_DCNv2_demo", "DIN_SE_MHTA_demo")


def small_experiment(expid: str, data: Path, model_root: Path) -> Experiment:
    """The shipped experiment with small widths, and everything on that a state has to remember."""
    register(import_module("model_zoo"))
    shipped = Experiment.load(expid)
    files = ("train_data", "valid_data", "test_data", "item_info", "item_feature")
    changes: dict[str, Any] = {key: str(data / Path(shipped[key]).name) for key in files}
    changes |= {"data_root": str(data), "model_root": str(model_root), "gpu": -1, "verbose": 0, "resume": True}
    changes |= {
        "epochs": 3,
        "batch_size": 64,
        "eval_steps": 17,
        "max_len": 10,
        "early_stop_patience": 99,
        "embedding_dim": 8,
    }
    changes |= {"checkpoint_steps": 5, "accumulation_steps": 3, "net_dropout": 0.3}
    changes |= {key: [32, 16] for key in ("dcn_hidden_units", "dnn_hidden_units") if key in shipped.params}
    return shipped.but(**changes)


def train(experiment: Experiment) -> None:
    """One process's work, without its output."""
    with open(os.devnull, "w") as sink:
        sys.stdout = sys.stderr = sink
        run_experiment(experiment)


class Trial:
    """One run under ``model_root``, killed and resumed."""

    def __init__(self, context: Any, experiment: Experiment) -> None:
        self.context = context
        self.experiment = experiment
        self.checkpoint = experiment.checkpoint

    def start(self) -> Any:
        process = self.context.Process(target=train, args=(self.experiment,))
        process.start()
        return process

    def to_the_end(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0, f"the run ended with exit status {process.exitcode}"

    def kill_after(self, seconds: float) -> str:
        process = self.start()
        time.sleep(seconds)
        return self._kill(process)

    def kill_while_writing(self, files_to_skip: int) -> str:
        """Wait for the temporary file of the n-th checkpoint write and kill at that moment."""
        process = self.start()
        seen: set[str] = set()
        while process.is_alive():
            seen.update(path.name for path in self.checkpoint.parent.glob(f".{self.checkpoint.stem}.*.tmp"))
            if len(seen) > files_to_skip:
                break
        return self._kill(process)

    def _kill(self, process: Any) -> str:
        process.kill()
        process.join()
        if process.exitcode == 0:
            return ENDED
        leftovers = len(list(self.checkpoint.parent.glob(f".{self.checkpoint.stem}.*.tmp")))
        where = "before the first state"
        # Whatever has its final name must be whole; reading it checks every sum.
        if self.checkpoint.is_file():
            read_weights(self.checkpoint)
        if state_file(self.checkpoint).is_file():
            state = read_file(state_file(self.checkpoint))
            where = (
                "training over" if state.get("finished") else f"epoch {state['epoch'] + 1}, {state['batch_index'] + 1}"
            )
        return where + (", half a file beside it" if leftovers else "")

    def differences(self, reference: "Trial") -> list[str]:
        """What is not as in the run that was left alone; empty if all is."""
        ours, theirs = (read_weights(trial.checkpoint) for trial in (self, reference))
        different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
        results = [finished_result(trial.experiment) for trial in (self, reference)]
        scores = [None if result is None else (result.valid, result.test) for result in results]
        if scores[0] is None or scores[0] != scores[1]:
            different.append("metrics")
        if list(self.checkpoint.parent.glob(".*.tmp")) or state_file(self.checkpoint).exists():
            different.append("files left over")
        return different


def run_trials(kills: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Returns one row per killed run."""
    data = folder / "data" / "MMCTR_demo"
    generate_demo(data, DemoSettings(items=300, rows=2000, valid_rows=400, test_rows=400))
    context = multiprocessing.get_context("forkserver")
    # torch._dynamo: the first optimizer of a process imports it, which takes longer than the training here.
    context.set_forkserver_preload(["fuxictr_mm.run.run", "torch._dynamo"])
    references, seconds = {}, {}
    for expid in EXPIDS:
        references[expid] = Trial(context, small_experiment(expid, data, folder / "alone"))
        references[expid].to_the_end()  # builds the item table and warms the file cache
        again = Trial(context, small_experiment(expid, data, folder / "again"))
        started = time.perf_counter()
        again.to_the_end()
        seconds[expid] = time.perf_counter() - started
        assert not again.differences(references[expid]), "two runs that were left alone differ"
    rng = random.Random(seed)
    rows = []
    for number in tqdm(range(kills), desc="killed runs"):
        expid = EXPIDS[number % len(EXPIDS)]
        trial = Trial(context, small_experiment(expid, data, folder / f"killed_{number}"))
        moments: list[str] = []
        while len(moments) < (2 if number % 5 == 4 else 1):
            if number % 3 == 2:
                count = rng.randrange(1, 30)
                moments.append(f"file {count + 1} being written: {trial.kill_while_writing(count)}")
            else:
                delay = rng.uniform(0, 0.9) * seconds[expid]
                moments.append(f"{delay:.2f} s: {trial.kill_after(delay)}")
            if moments[-1].endswith(ENDED):  # too late to kill: not a trial
                moments.clear()
                shutil.rmtree(trial.checkpoint.parent)
        trial.to_the_end()
        different = trial.differences(references[expid])
        rows.append({"run": number + 1, "experiment": expid, "killed": "; ".join(moments), "different": different})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    same = sum(not row["different"] for row in rows)
    lines = [f"{same} of {len(rows)} killed and resumed runs end with the weights and metrics of a run left alone."]
    lines += ["", "| run | experiment | killed (time or file: the state then on disk) | same weights and metrics |"]
    lines += ["| --- | --- | --- | --- |"]
    for row in rows:
        names = row["different"]
        verdict = "yes" if not names else f"NO: {', '.join(names[:2])} ({len(names)} differ)"
        lines.append(f"| {row['run']} | {row['experiment']} | {row['killed']} | {verdict} |")
    lines += ["", f"Command: `python proofs/kill_and_resume.py {shlex.join(sys.argv[1:])}`"]
    lines += [f"Commit {current_commit()}; {machine()}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "kill_and_resume.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run_trials(args.kills, args.seed, Path(folder))
    table = markdown(rows)
    with atomic_write(args.out) as path:
        path.write_text(table, encoding="utf-8")
    print(table)
    if any(row["different"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
