"""Does a damaged file get through? Every kind of file that is read again, damaged in every way.

``python proofs/damaged_files.py`` trains tiny experiments, damages one file at a time (flipped bits, cut, emptied,
another file or a folder in its place, tensors of other shapes, keys that are missing) and lets a process of its own
read it: score with the model, resume, or train. That must end in one sentence with the file's name and status 2, or
give the same bytes as the whole file. Legacy ``.pth`` and foreign ``.safetensors`` have no checksum, so no bits are
flipped in these; sources that people bring have none either. Writes ``results/damaged_files.md``; ends with status 1 if
one is wrong.
"""

import argparse
import os
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from kill_everywhere import EXPERIMENTS, TRAINING, Fault, Runs, outputs
from odd_values import Workplace
from safetensors.torch import save_file
from tqdm import tqdm
from verdicts import conclude

from fuxictr_mm.run import Trained, resolve_experiment, run_experiment
from fuxictr_mm.serve.prediction import predict_file
from fuxictr_mm.training.checkpoint import read_file, read_weights, write_file, write_weights

HERE = Path(__file__).resolve().parents[1]
MEMORY = 8 << 30  # of a process, beyond which a size that was read must be wrong
Do = Callable[[Path], Any]
Change = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Trial:
    """One damaged file.

    Attributes:
        kind: what kind of file it is.
        name: pattern of its name in the folder of the experiment.
        what: what is done to it.
        do: does it.
        action: what reads it: ``"score"``, ``"resume"`` or ``"train"``.
        trained: the folder that is copied, a finished or an interrupted experiment.
        weights: whether the file is given as weights.
    """

    kind: str
    name: str
    what: str
    do: Do
    action: str
    trained: Path
    weights: bool = False


def damages(rng: random.Random, flips: int) -> Iterator[tuple[str, Do]]:
    """What can happen to any file."""

    def flip(path: Path, where: float) -> None:
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    def zero(path: Path, where: float) -> None:
        content = bytearray(path.read_bytes())
        at = int(where * len(content))
        content[at : at + 64] = bytes(len(content[at : at + 64]))
        path.write_bytes(content)

    for number in range(flips):
        # Some in the first bytes, which say what the rest is.
        where = rng.random() * (0.05 if number % 4 == 0 else 1)
        yield f"a bit flipped at {100 * where:.1f} %", partial(flip, where=where)
    for where in (0.1, 0.6) if flips else ():
        yield f"64 bytes zeroed at {100 * where:.0f} %", partial(zero, where=where)
    yield from gross_damages()


def gross_damages() -> Iterator[tuple[str, Do]]:
    """What happens to a file as a whole."""

    def cut(path: Path, share: float) -> None:
        os.truncate(path, int(share * path.stat().st_size))

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    for share in (0.3, 0.9, 0.999):
        yield f"cut at {100 * share} %", partial(cut, share=share)
    yield "empty", lambda path: os.truncate(path, 0)
    yield "text", lambda path: path.write_text("not what it was\n")
    yield "JSON of something else", lambda path: path.write_text('{"a": [1, 2]}')
    yield "random bytes", lambda path: path.write_bytes(random.Random(1).randbytes(5000))
    yield "a folder", folder
    yield "removed", Path.unlink


def in_tensors(change: Change, write: Callable[..., None] = write_file) -> Do:
    """A change to what a checkpoint of torch holds; the file itself is whole."""

    def do(path: Path) -> None:
        content = read_weights(path) if path.suffix == ".safetensors" else read_file(path)
        change(content)
        write(content, path)

    return do


def of_weights() -> Iterator[tuple[str, Change]]:
    """What can be wrong in a state dict."""

    def first(content: dict[str, Any]) -> str:
        return next(name for name, tensor in content.items() if tensor.dim() == 2)

    def put(content: dict[str, Any], make: Callable[[torch.Tensor], Any]) -> None:
        content[first(content)] = make(content[first(content)]).contiguous()

    for what, make in {
        "NaN": lambda t: t.clone().index_fill_(0, torch.tensor([0]), float("nan")),
        "inf": lambda t: t * float("inf"),
        "too short": lambda t: t[:1],
        "transposed": lambda t: t.T if t.shape[0] != t.shape[1] else t[:, :1],
        "flat": lambda t: t.reshape(-1),
        "whole numbers": lambda t: t.long(),
        "booleans": lambda t: t > 0,
    }.items():
        yield f"a parameter is {what}", partial(put, make=make)
    yield "a parameter is missing", lambda content: content.pop(first(content)) is None
    yield "a parameter too many", lambda content: content.update(more=torch.zeros(3))
    yield "no parameters", lambda content: content.clear()


def of_states(state: dict[str, Any]) -> Iterator[tuple[str, Change]]:
    """What can be wrong in a training state."""

    def remove(content: dict[str, Any], key: str) -> None:
        del content[key]

    def replace(content: dict[str, Any], key: str) -> None:
        content[key] = "x"

    def in_model(content: dict[str, Any], change: Change) -> None:
        change(content["model"])

    for key in state:
        yield f"without {key}", partial(remove, key=key)
        yield f"{key} is text", partial(replace, key=key)

    def moment(content: dict[str, Any], name: str, make: Callable[[torch.Tensor], Any]) -> None:
        moments = content["optimizer"]["state"]
        at = next(n for n, one in moments.items() if one["exp_avg"].dim() == 2)
        moments[at][name] = make(moments[at][name])

    for name in ("exp_avg", "exp_avg_sq"):
        for what, make in {
            "short": lambda t: t[:1],
            "empty": lambda t: t[:0],
            "a number": lambda t: t.sum(),
            "NaN": lambda t: t * float("nan"),
            "text": lambda t: "x",
            "flat": lambda t: t.reshape(-1)[:-1],
        }.items():
            yield f"{name} is {what}", partial(moment, name=name, make=make)
    yield "step is long", partial(moment, name="step", make=lambda t: torch.zeros(9))

    def moments_of(content: dict[str, Any]) -> dict[str, Any]:
        return next(iter(content["optimizer"]["state"].values()))

    yield "a moment is missing", lambda content: moments_of(content).pop("exp_avg") is None
    yield "a moment too many", lambda content: moments_of(content).update(more=torch.zeros(1))
    yield "moments of a parameter too many", lambda content: content["optimizer"]["state"].update({999: {}})
    yield "no groups", lambda content: content["optimizer"].update(param_groups=[])
    yield "a group is short", lambda content: content["optimizer"]["param_groups"][0]["params"].pop()
    yield "a rate is text", lambda content: content["optimizer"]["param_groups"][0].update(lr="0.1")
    yield "no optimizer", lambda content: content["optimizer"].clear()
    yield "no generator of torch", lambda content: content["rng"].pop("torch") is None
    yield "a short generator", lambda content: content["rng"].update(torch=torch.zeros(3, dtype=torch.uint8))
    yield "a generator of Python's is cut", lambda content: content["rng"].update(python=[3, [1], None])
    yield "a generator of numpy's is cut", lambda content: content["rng"].update(numpy=["MT19937", torch.zeros(2)])
    yield "an unknown gradient", lambda content: content["gradients"].update(x=torch.zeros(1))
    for what, change in of_weights():
        yield what, partial(in_model, change=change)


def trials(place: Workplace, runs: Runs, flips: int) -> tuple[dict[Path, dict[str, bytes]], list[Trial]]:
    """What each trained folder gives while its files are whole, and all trials."""
    rng = random.Random(0)
    done, half = runs.new(), runs.new()
    ended = runs.go(done, Fault())
    assert ended.status == 0, ended.said
    runs.go(half, Fault(at=int(0.8 * ended.operations)))
    _weights_of(done)
    found: list[Trial] = []
    generic = {
        "item column": ("out/tiny/emb-*", "score"),
        "item column of ids": ("out/tiny/tags-*", "score"),
        "click vectors": ("out/tiny/clicks-*", "score"),
        "item ids": ("out/tiny/item_ids-*", "score"),
        "weights (.model)": ("ck/tiny/run.model", "score"),
        "parameters": ("ck/tiny/run.params.json", "score"),
        "feature map": ("ck/tiny/run.feature_map.json", "score"),
        "result": ("ck/tiny/run.result.json", "resume"),
    }
    for kind, (name, action) in generic.items():
        for what, do in damages(rng, flips):
            found.append(Trial(kind, name, what, do, action, done))
    for what, do in damages(rng, flips):
        found.append(Trial("training state", "ck/tiny/run.state", what, do, "resume", half))
    state = read_file(next(half.glob("ck/tiny/run.state")))
    for what, change in of_states(state):
        found.append(Trial("training state", "ck/tiny/run.state", what, in_tensors(change), "resume", half))
    writers: dict[str, Callable[..., None]] = {
        "given.safetensors": write_weights,
        "given.pth": write_file,
        "foreign.safetensors": save_file,
    }
    writers |= {"legacy.pth": _write_legacy}
    for name, write in writers.items():
        kind = f"given weights ({name})"
        has_sum = name.startswith("given")
        for what, do in damages(rng, flips) if has_sum else gross_damages():
            found.append(Trial(kind, name, what, do, "score", done, weights=True))
        for what, change in of_weights():
            found.append(Trial(kind, name, what, in_tensors(change, write), "score", done, weights=True))
    expected = {done: outputs(done) | _scores(runs, done), half: outputs(done)}
    return expected, found


def sources(place: Workplace, runs: Runs) -> tuple[dict[Path, dict[str, bytes]], list[Trial]]:
    """Files that people bring: each lies in the experiment's own folder and is damaged there."""
    config, found = runs.new(), []
    files = {name: f"{name}.parquet" for name in ("train", "valid", "test", "items")}
    for name in files.values():
        shutil.copy(place.folder / name, config / name)
    data = (config / "dataset_config.yaml").read_text(encoding="utf-8")
    (config / "dataset_config.yaml").write_text(data.replace(f"{place.folder}/", ""), encoding="utf-8")
    probability = np.random.default_rng(0).random(32)
    truth = {"split": ["valid"] * 32, "row": range(32), "probability": probability}
    pq.write_table(pa.table(truth), config / "truth.parquet")
    streamed = shutil.copytree(config, runs.new(), dirs_exist_ok=True)
    model = (streamed / "model_config.yaml").read_text(encoding="utf-8")
    (streamed / "model_config.yaml").write_text(model + "  stream: true\n", encoding="utf-8")
    expected = {}
    for folder in (config, streamed):
        ended = runs.go(folder, Fault())
        assert ended.status == 0, ended.said
        expected[folder] = outputs(folder)
        shutil.rmtree(folder / "ck")
    for name in files.values():
        for what, do in gross_damages():
            found.append(Trial("split or items (.parquet)", name, what, do, "train", config))
    wrong = {
        "of other rows": {"split": ["valid"] * 3, "row": range(3), "probability": [0.1] * 3},
        "without probabilities": {"split": ["valid"] * 32},
        "with numbers for names": {"split": range(32), "probability": probability},
        "with text for numbers": {"split": ["valid"] * 32, "probability": ["x"] * 32},
        "with NaN": {"split": ["valid"] * 32, "probability": [float("nan")] * 32},
        "beyond 1": {"split": ["valid"] * 32, "probability": probability + 1},
    }

    def write(path: Path, columns: Any) -> None:
        pq.write_table(pa.table(columns), path)

    written: list[tuple[str, Do]] = [(what, partial(write, columns=columns)) for what, columns in wrong.items()]
    for what, do in [*written, *list(gross_damages())[:5]]:
        found.append(Trial("truth.parquet", "truth.parquet", what, do, "train", config))
    for what, do in damages(random.Random(1), 12):
        found.append(Trial("streamed rows", "out/tiny/train-*.arrow", what, do, "train", streamed))
    return expected, found


def _weights_of(done: Path) -> None:
    weights = read_weights(done / "ck" / "tiny" / "run.model")
    write_weights(weights, done / "given.safetensors")
    write_file(weights, done / "given.pth")
    save_file({name: tensor.clone() for name, tensor in weights.items()}, done / "foreign.safetensors")
    _write_legacy(weights, done / "legacy.pth")


def _write_legacy(weights: Any, path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def _act(action: str, config: Path, weights: Path | None, notes: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    experiment = resolve_experiment("run", config, resume=action == "resume")
    if action == "score":
        predict_file(Trained.open(experiment, weights), experiment["test_data"], notes / "scores.parquet")
    else:
        run_experiment(experiment)


class Judge:
    """Carries trials out and says what is wrong."""

    def __init__(self, runs: Runs, expected: dict[Path, dict[str, bytes]]) -> None:
        self.runs = runs
        self.expected = expected

    def go(self, trained: Path, action: str, prepare: Do, weights: str | None = None) -> tuple[int, str, Path]:
        """Copy a folder, prepare it, act; returns status, what was said, and the copy."""
        config = self.runs.new()
        shutil.rmtree(config)
        shutil.copytree(trained, config)
        prepare(config)
        notes = config.parent / "notes"
        act = partial(_act, action, config, None if weights is None else config / weights)
        return (*self.runs.process(act, notes), config)

    def __call__(self, trial: Trial) -> tuple[Trial, str, str]:
        """The trial, how it ended (``"refused"``, ``"read right"``, ``"wrong"``) and why."""
        name = ""

        def damage(config: Path) -> None:
            nonlocal name
            path = next(iter(config.glob(trial.name)))
            name = path.name
            trial.do(path)

        status, said, config = self.go(trial.trained, trial.action, damage, trial.name if trial.weights else None)
        try:
            sentences = [line for line in said.splitlines() if line.startswith("error: ")]
            if status == 2 and len(sentences) == 1 and "Traceback" not in said and name in sentences[0]:
                return trial, "refused", sentences[0]
            if status:
                return trial, "wrong", f"status {status}: {said[-400:]!r}"
            return (trial, *self._compared(trial, config))
        finally:
            shutil.rmtree(config.parent)

    def _compared(self, trial: Trial, config: Path) -> tuple[str, str]:
        if trial.action == "score":
            found = {"scores": (config.parent / "notes" / "scores.parquet").read_bytes()}
        else:
            found = {name: content for name, content in outputs(config).items() if "/run." in name}
        expected = self.expected[trial.trained]
        differs = [name for name, content in found.items() if content != expected.get(name)]
        return ("wrong", f"other bytes of {differs[0]}") if differs else ("read right", "")


def _scores(runs: Runs, done: Path) -> dict[str, bytes]:
    status, said, config = Judge(runs, {}).go(done, "score", lambda _: None)
    assert status == 0, said
    return {"scores": (config.parent / "notes" / "scores.parquet").read_bytes()}


def prove(folder: Path, flips: int, every: int, at_once: int = 2) -> list[tuple[Trial, str, str]]:
    """Returns each trial, how it ended and why."""
    place = Workplace(folder, users=40)
    runs = Runs(place, {**EXPERIMENTS["in memory"], **TRAINING, "epochs": 2})
    expected, found = trials(place, runs, flips)
    of_sources, more = sources(place, runs)
    judge, chosen = Judge(runs, expected | of_sources), [*found, *more][::every]
    with ThreadPoolExecutor(at_once) as pool:
        return list(tqdm(pool.map(judge, chosen), total=len(chosen), desc="damaged files"))


def table(rows: list[tuple[Trial, str, str]]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for kind in [*dict.fromkeys(trial.kind for trial, _, _ in rows), "all"]:
        count = Counter(how for trial, how, _ in rows if kind in (trial.kind, "all"))
        endings = {how: count[how] for how in ("refused", "read right", "wrong")}
        lines.append({"file": kind, "tried": count.total(), **endings})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--flips", type=int, default=40, help="single bits, per kind of file")
    parser.add_argument("--every", type=int, default=1, help="try one damage in so many")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="damaged_files.") as name:
        rows = prove(Path(name), args.flips, args.every)
    wrong = [f"{trial.kind}, {trial.what}: {why}" for trial, how, why in rows if how == "wrong"]
    sentence = f"{len(wrong)} of {len(rows)} damaged files are handled wrongly."
    conclude(args.out / "damaged_files.md", table(rows), sentence, wrong)


if __name__ == "__main__":
    main()
