"""From an experiment to a result, and back to a model that can be used."""

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.run.check import check_runs
from fuxictr_mm.run.results import Result, finished_result
from fuxictr_mm.run.run import resolve_experiment, run_experiment
from fuxictr_mm.run.trained import Trained

__all__ = [
    "Experiment", "Result", "Trained", "check_runs", "finished_result", "resolve_experiment", "run_experiment",
]  # fmt: skip
