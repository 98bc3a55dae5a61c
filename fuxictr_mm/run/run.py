"""One experiment from YAML to result, on FuxiCTR's own machinery and with FuxiCTR's outputs."""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json

from fuxictr_mm.config.code import check_feature_map
from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.demo.generator import DEMOS, best_auc, ensure_demo
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.features.processor import MultimodalFeatureProcessor
from fuxictr_mm.files import check_writable, only_one, remove_leftovers
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.registry import register
from fuxictr_mm.run.build import build_model
from fuxictr_mm.run.check import check_runs
from fuxictr_mm.run.evaluation import Evaluation, evaluate_split, unknown_targets
from fuxictr_mm.run.log import RunLog
from fuxictr_mm.run.provenance import current_commit
from fuxictr_mm.run.results import Result, append_csv, begin, ended_run, finish, finished_result
from fuxictr_mm.run.warnings import warnings_of
from fuxictr_mm.training.checkpoint import load_weights
from fuxictr_mm.training.progress import state_file

__all__ = ["build_features", "read_feature_map", "resolve_experiment", "run_experiment", "warn_without_gpu"]

CHALLENGE = "MicroLens_1M_x1"
STAND_IN, OF_STAND_IN = "MMCTR_quick", "quick"
CHALLENGE_SOURCE = "the WWW 2025 MMCTR challenge's page on Hugging Face, dataset reczoo/MicroLens_1M_MMCTR"


def resolve_experiment(
    expid: str,
    config_dir: str | Path | None = None,
    dataset_id: str | None = None,
    *,
    model_zoo: ModuleType | None = None,
    **changes: Any,
) -> Experiment:
    """Load an experiment; without the challenge's files, ``<model>_MMCTR`` becomes ``<model>_quick`` on generated data.

    Args:
        expid, config_dir, dataset_id, model_zoo, changes: see :meth:`Experiment.load`.

    Raises:
        ConfigError: a name, key or value cannot be used; or ``dataset_id`` asks for the challenge's files and they are
            absent.
    """
    register(model_zoo or import_module("model_zoo"))
    experiment = Experiment.load(expid, config_dir, dataset_id, model_zoo=model_zoo, **changes)
    if experiment.dataset_id == CHALLENGE and not Path(experiment["train_data"]).exists():
        if dataset_id == CHALLENGE or not expid.endswith("_MMCTR"):
            raise ConfigError(
                f"--dataset {CHALLENGE}: {experiment['train_data']} not found; get the files from {CHALLENGE_SOURCE} "
                f"and put them in place as README says, or run with --dataset {STAND_IN}."
            )
        demo_expid = expid.removesuffix("MMCTR") + OF_STAND_IN
        print(
            f"\n>>> NO CHALLENGE DATA in {Path(experiment['train_data']).parent}: running on the GENERATED stand-in "
            f"{STAND_IN} with the small widths of {demo_expid}; these results are not the challenge's.\n",
            flush=True,
        )
        experiment = Experiment.load(demo_expid, config_dir, model_zoo=model_zoo, **{"model_id": expid, **changes})
    if (settings := DEMOS.get(experiment.dataset_id)) is not None:
        other = ensure_demo(Path(experiment["train_data"]).parent, settings)
        changed = ", ".join(f"{name}={value}" for name, value in other.items())
        if changed:
            print(f"\n>>> {experiment.dataset_id} on disk was made with other settings: {changed}\n", flush=True)
    return experiment


def run_experiment(
    experiment: Experiment,
    *,
    csv_file: Path | None = None,
    on_evaluation: Sequence[Callable[[dict[str, Any]], None]] = (),
) -> Result:
    """Build features, train, and evaluate the best weights on valid and test.

    With ``resume: True`` a run that has ended with these parameters on these data is not repeated (with other
    ``metrics``, its weights are evaluated again), and one that was interrupted continues where its last saved state is.
    What an earlier run of the same experiment id left is removed when training begins, after every check; a second run
    of it at the same time is refused.

    Args:
        experiment: from :func:`resolve_experiment`.
        csv_file: FuxiCTR's results file, one row appended.
        on_evaluation: trackers; each is called with every entry of the training curve. Models of ours only.

    Raises:
        ConfigError, DataError: before any training.
        TrainingInterrupted: a signal ended training, the state is saved.
    """
    check_runs([experiment])
    with only_one(experiment.file(".lock"), f"another run of experiment {experiment.expid} on {experiment.dataset_id}"):
        remove_leftovers(experiment.checkpoint.parent)
        if csv_file is not None:
            check_writable(csv_file)
        if experiment.get("resume") and (result := finished_result(experiment)):
            if csv_file is not None:
                append_csv(csv_file, result, unless_there=True)  # a run can be killed between its last files
            state_file(result.checkpoint).unlink(missing_ok=True)
            print(f"{result.file.name}: this run has ended with the same parameters and data; it is not repeated")
            return result
        result = _run(experiment, on_evaluation, ended_run(experiment) if experiment.get("resume") else None)
        if csv_file is not None:
            append_csv(csv_file, result)
        return result


def _run(
    experiment: Experiment, on_evaluation: Sequence[Callable[[dict[str, Any]], None]], ended: Result | None
) -> Result:
    params = dict(experiment.params)
    fingerprint, commit = experiment.fingerprint(), current_commit()
    log = RunLog(experiment.file(".log"))
    logging.info("Params: " + print_to_json(params))
    warn_without_gpu(params)
    seed_everything(seed=params["seed"])
    feature_map, feature_map_json = build_features(params)
    logging.info("Feature specs: " + print_to_json(feature_map.features))
    # All splits are read, and so checked, before the first training step.
    loaders = {
        split: MMCTRDataLoader(feature_map, params[f"{split}_data"], **{**params, "split": split, "shuffle": shuffle})
        for split, shuffle in (("train", params.get("shuffle", True)), ("valid", False), ("test", False))
        if params.get(f"{split}_data")
    }
    if experiment.fingerprint() != fingerprint:
        raise DataError(f"dataset {experiment.dataset_id}: a data file was replaced while it was read; run it again.")
    best = {split: best_auc(params[f"{split}_data"]) for split in loaders if split != "train"}
    model = build_model(experiment, feature_map, next(iter(loaders["valid"])))
    model.count_parameters()
    if on_evaluation:
        model.on_evaluation = list(on_evaluation)
    if params.get("weights"):
        load_weights(model, params["weights"])
    if ended is not None:  # the same training with other metrics
        load_weights(model, experiment.checkpoint)
        return _evaluated(experiment, model, loaders, ended)
    if not (params.get("resume") and state_file(model.checkpoint).is_file()):
        begin(experiment, feature_map_json)
        log.begin_anew()
    started = time.perf_counter()
    model.fit(loaders["train"], validation_data=loaders["valid"], **params)
    trained = Result(
        expid=experiment.expid,
        dataset_id=experiment.dataset_id,
        valid={},
        test={},
        best_possible={split: auc for split, auc in best.items() if auc is not None},
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=getattr(model, "train_seconds", time.perf_counter() - started),
        checkpoint=experiment.checkpoint,
        commit=commit,
        curve=getattr(model, "curve", []),
        params_fingerprint=fingerprint,
    )
    return _evaluated(experiment, model, loaders, trained)


def _evaluated(experiment: Experiment, model: Any, loaders: dict[str, MMCTRDataLoader], trained: Result) -> Result:
    """The result of a training: the metrics of the best weights, written beside them."""
    params = experiment.params
    clicks = loaders["train"].training.users_per_item
    evaluated: dict[str, Evaluation] = {}
    for split in ("valid", "test"):
        if split in loaders and loaders[split].has_label:
            logging.info(f"****** {split} evaluation ******")
            evaluated[split] = evaluate_split(model, loaders[split], params["metrics"], clicks)
        elif split in loaders:
            logging.info(f"{params['test_data']} has no label column: no test metrics.")
    unknown = {}
    if isinstance(model, MultimodalRankModel):
        for split in ("train", *evaluated):
            unknown[split] = unknown_targets(model, loaders[split], training=split == "train")
    overall = {
        split: {name: value if math.isfinite(value) else None for name, value in found.overall.items()}
        for split, found in evaluated.items()
    }
    result = replace(
        trained,
        valid=overall["valid"],
        test=overall.get("test", {}),
        by_frequency={split: found.by_frequency for split, found in evaluated.items()},
        unknown_targets=unknown,
        warnings=warnings_of(model, loaders["valid"], evaluated, unknown),
    )
    for sentence in result.warnings:
        logging.warning(sentence)
    finish(result)
    return result


def build_features(params: dict[str, Any]) -> tuple[FeatureMap, str]:
    """Build or reuse the item columns; return this run's own feature map, and the JSON that it is read from.

    Its own, because runs that share a data set write one ``feature_map.json`` after the other.
    """
    processor = MultimodalFeatureProcessor(**params)
    processor.fit()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "feature_map.json"
        processor.feature_map.save(str(file))
        return read_feature_map(file, params), file.read_text(encoding="utf-8")


def read_feature_map(file: Path, params: dict[str, Any]) -> FeatureMap:
    """Load a feature map that :class:`MultimodalFeatureProcessor` wrote.

    Its columns are those of the experiment already, so ``use_features``, which FuxiCTR applies at this point and which
    does not name the group id, is not applied again.

    Raises:
        DataError: the file is none, or of another dataset.
        ConfigError: it would run code that is not admitted.
    """
    feature_map = FeatureMap(params["dataset_id"], str(Path(params["data_root"]) / params["dataset_id"]))
    try:
        feature_map.load(str(file), {**params, "use_features": None})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as err:
        raise DataError(
            f"{file}: no feature map of {params['dataset_id']} ({type(err).__name__}: {err}); train the experiment "
            "again."
        ) from err
    check_feature_map(feature_map.features, str(file))
    return feature_map


def warn_without_gpu(params: dict[str, Any]) -> None:
    """Say that a GPU which was asked for is not there."""
    if params.get("gpu", -1) >= 0 and not torch.cuda.is_available():
        logging.warning(f"--gpu {params['gpu']}: torch {torch.__version__} finds no CUDA device; running on the CPU.")
