"""What a run leaves beside its checkpoint, and what tells one run from another.

``<expid>.params.json`` and ``<expid>.feature_map.json`` are written when training begins: with them and the weights,
a model can be built again after the YAML or another run has changed. ``<expid>.result.json`` says that a run has ended.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fuxictr.utils import print_to_list

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.errors import DataError
from fuxictr_mm.files import atomic_write, read_json, remove_leftovers, write_json
from fuxictr_mm.training.progress import state_file

__all__ = ["Result", "append_csv", "begin", "ended_run", "finish", "finished_result", "saved_params"]


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes:
        expid, dataset_id: which experiment on which data.
        valid, test: metric name -> value; ``test`` is empty where the split is absent or has no label.
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
    valid: dict[str, float]
    test: dict[str, float]
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
        saved = read_json(cls, file, "train the experiment again")
        return replace(saved, checkpoint=file.with_name(saved.checkpoint.name))

    def write(self) -> None:
        """Write :attr:`file`, whole or not at all."""
        remove_leftovers(self.file)
        write_json(self.file, {**asdict(self), "checkpoint": self.checkpoint.name})

    def to_table(self) -> str:
        """One line per split, for people."""
        names = list(self.valid)
        lines = [f"{self.expid} on {self.dataset_id}, {self.parameters:,} parameters, trained in {self.seconds:.0f} s"]
        lines.append(f"{'split':<8}" + "".join(f"{name:>10}" for name in names) + "   best possible AUC")
        for split, metrics in (("valid", self.valid), ("test", self.test)):
            if metrics:
                values = "".join(f"{metrics[name]:>10.4f}" for name in names)
                best = self.best_possible.get(split)
                lines.append(f"{split:<8}{values}   " + ("unknown" if best is None else f"{best:.4f}"))
                by_frequency = self.by_frequency.get(split, {})
                for group, found in by_frequency.items() if len(by_frequency) > 1 else ():
                    values = "".join(f"{'-':>10}" if found[name] is None else f"{found[name]:>10.4f}" for name in names)
                    lines.append(f"  {group:<6}{values}   {found['rows']:,} rows, {found['items']:,} items")
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def begin(experiment: Experiment, feature_map: str) -> None:
    """Note what is about to be trained; what an earlier run of this experiment id left is removed first.

    Args:
        feature_map: content of the feature map's JSON file.
    """
    checkpoint = experiment.checkpoint
    for path in (checkpoint, state_file(checkpoint), experiment.file(".result.json")):
        path.unlink(missing_ok=True)
    kept = {key: value for key, value in experiment.params.items() if key not in KEYS or not KEYS[key].machine}
    notes = {".feature_map.json": feature_map, ".params.json": json.dumps(kept, indent=1, default=str) + "\n"}
    for suffix, content in notes.items():
        remove_leftovers(experiment.file(suffix))
        with atomic_write(experiment.file(suffix)) as path:
            path.write_text(content, encoding="utf-8")


def saved_params(checkpoint: Path) -> dict[str, Any] | None:
    """The parameters that the experiment with this checkpoint was trained with, paths and machine keys left out."""
    file = checkpoint.with_suffix(".params.json")
    if not file.is_file():
        return None
    try:
        params: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as err:
        raise DataError(f"{file}: not valid JSON ({err}); train the experiment again.") from err
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
    content = (
        f"[exp_id] {result.expid},[dataset_id] {result.dataset_id},[train] N.A.,[val] {print_to_list(result.valid)},"
        f"[test] {print_to_list(result.test)}\n"
    )
    if unless_there and csv_file.is_file() and content in csv_file.read_text(encoding="utf-8"):
        return
    with open(csv_file, "a", encoding="utf-8") as stream:
        stream.write(f" {datetime.now():%Y%m%d-%H%M%S},[command] python {shlex.join(sys.argv)},{content}")
