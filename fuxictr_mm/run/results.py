"""What a run leaves beside its checkpoint, and what tells one run from another.

``<expid>.params.json`` and ``<expid>.feature_map.json`` are written when training begins: with them and the weights,
a model can be built again after the YAML or another run has changed. ``<expid>.result.json`` says that a run has ended.
"""

import math
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fuxictr.utils import print_to_list
from pydantic import TypeAdapter, ValidationError

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, checksum, misfit, naming, read_sealed, write_sealed
from fuxictr_mm.training.progress import state_file

AGAIN = "train the experiment again"
# In the file of the parameters: checksum of the feature map beside it.
FEATURE_MAP = "feature_map_checksum"

__all__ = ["Result", "append_csv", "begin", "ended_run", "finish", "finished_result", "saved_params"]


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        expid, dataset_id: which experiment on which data.
        valid, test: metric name -> value, ``None`` where it is not a number; ``test`` is empty where the split is
            absent or has no label.
        best_possible: split -> AUC of the true click probability; only generated data knows it.
        parameters: number of trained parameters.
        seconds: wall-clock time of training alone.
        checkpoint: file of the best weights.
        commit: of this package's repository, when the run (or its last part) began.
        by_frequency: split -> ``"cold"``, ``"rare"``, ``"warm"`` -> metrics, as in
            :class:`~fuxictr_mm.run.evaluation.Evaluation`.
        curve: one entry per evaluation during training: ``step``, ``epoch``, ``train_loss`` (mean since the last one)
            and ``valid`` (metric -> value).
        warnings: what a careful person would look at, one sentence each.
        params_fingerprint: :meth:`Experiment.fingerprint` when the run began; empty is none.
        unknown_targets: split, ``"train"`` among them -> compared modality -> what
            :func:`~fuxictr_mm.run.evaluation.unknown_targets` returns.
    """

    expid: str
    dataset_id: str
    valid: dict[str, float | None]
    test: dict[str, float | None]
    best_possible: dict[str, float]
    parameters: int
    seconds: float
    checkpoint: Path
    commit: str
    by_frequency: dict[str, dict[str, dict[str, int | float | None]]] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    params_fingerprint: str = ""
    unknown_targets: dict[str, dict[str, dict[str, int | float | None]]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """JSON of this result, beside the checkpoint."""
        return self.checkpoint.with_suffix(".result.json")

    @classmethod
    def read(cls, file: Path) -> "Result":
        """Read what :meth:`write` wrote, wherever its folder lies by now.

        Raises:
            DataError: the file is damaged; says where.
        """
        try:
            saved = TypeAdapter(cls).validate_python(read_sealed(file, AGAIN))
        except ValidationError as err:
            raise misfit(file, err, AGAIN) from err
        return replace(saved, checkpoint=file.with_name(saved.checkpoint.name))

    def write(self) -> None:
        """Write :attr:`file`, whole or not at all."""
        write_sealed(self.file, {**asdict(self), "checkpoint": self.checkpoint.name})

    def to_table(self) -> str:
        """One line per split, for people."""
        names = list(self.valid)
        lines = [f"{self.expid} on {self.dataset_id}, {self.parameters:,} parameters, trained in {self.seconds:.0f} s"]
        lines.append(f"{'split':<8}" + "".join(f"{name:>10}" for name in names) + "   best possible AUC")
        for split, metrics in (("valid", self.valid), ("test", self.test)):
            if metrics:
                values = "".join(map(_cell, map(metrics.get, names)))
                best = self.best_possible.get(split)
                lines.append(f"{split:<8}{values}   " + ("unknown" if best is None else f"{best:.4f}"))
                by_frequency = self.by_frequency.get(split, {})
                for group, found in by_frequency.items() if len(by_frequency) > 1 else ():
                    values = "".join(map(_cell, map(found.get, names)))
                    lines.append(f"  {group:<6}{values}   {found['rows']:,} rows, {found['items']:,} items")
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:>10.4f}"


def begin(experiment: Experiment, feature_map: str) -> None:
    """Note what is about to be trained; what an earlier run of this experiment id left is removed first.

    Args:
        feature_map: content of the feature map's JSON file.
    """
    checkpoint = experiment.checkpoint
    for path in (checkpoint, state_file(checkpoint), experiment.file(".result.json")):
        path.unlink(missing_ok=True)
    kept = {key: value for key, value in experiment.params.items() if key not in KEYS or not KEYS[key].machine}
    with atomic_write(experiment.file(".feature_map.json")) as path:
        path.write_text(feature_map, encoding="utf-8")
    write_sealed(experiment.file(".params.json"), {**kept, FEATURE_MAP: checksum([("", feature_map.encode())])})


def saved_params(checkpoint: Path) -> dict[str, Any]:
    """The parameters that the experiment with this checkpoint was trained with, paths and machine keys left out.

    Raises:
        DataError: they, or the feature map that was written with them, are missing, damaged or changed.
    """
    file, feature_map = (checkpoint.with_suffix(suffix) for suffix in (".params.json", ".feature_map.json"))
    for needed in (file, feature_map):
        if not needed.is_file():
            raise DataError(f"{needed}: file not found, though {checkpoint.name} is there; {AGAIN}.")
    params = read_sealed(file, AGAIN)
    expected = params.pop(FEATURE_MAP, None)
    if not isinstance(params.get("model"), str):
        raise DataError(f"{file}: names no model, so it is not the file of a run's parameters; {AGAIN}.")
    if expected is not None and expected != checksum([("", feature_map.read_bytes())]):
        raise DataError(f"{feature_map}: damaged, or not of the same run as {file.name}; {AGAIN}.")
    return params


def finish(result: Result) -> None:
    """Write the result; the training state has done its work."""
    result.write()
    state_file(result.checkpoint).unlink(missing_ok=True)


def finished_result(experiment: Experiment) -> Result | None:
    """Return the saved result of exactly these parameters on exactly these data files, or ``None``."""
    result = ended_run(experiment)
    return result if result is not None and set(result.valid) == set(experiment["metrics"]) else None


def ended_run(experiment: Experiment) -> Result | None:
    """The same, whatever metrics the run was evaluated by: they decide nothing of what it computes."""
    file = experiment.file(".result.json")
    if not file.is_file() or not experiment.checkpoint.is_file():
        return None
    result = Result.read(file)
    return result if result.params_fingerprint == experiment.fingerprint() else None


def append_csv(csv_file: Path, result: Result, *, unless_there: bool = False) -> None:
    """Append FuxiCTR's row in FuxiCTR's form; one write call, so that rows of parallel runs do not mix.

    Args:
        csv_file: FuxiCTR's results file.
        result: the run.
        unless_there: write nothing if the file has a row with the same experiment and metrics.
    """
    valid, test = (
        print_to_list({name: math.nan if value is None else value for name, value in metrics.items()})
        for metrics in (result.valid, result.test)
    )
    content = f"[exp_id] {result.expid},[dataset_id] {result.dataset_id},[train] N.A.,[val] {valid},[test] {test}\n"
    if unless_there and csv_file.is_file() and content in csv_file.read_text(encoding="utf-8"):
        return
    with naming(csv_file), open(csv_file, "a", encoding="utf-8") as stream:
        stream.write(f" {datetime.now():%Y%m%d-%H%M%S},[command] python {shlex.join(sys.argv)},{content}")
