"""One experiment from YAML to result, on FuxiCTR's own machinery and with FuxiCTR's outputs."""

import argparse
import logging
import shlex
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import build_dataset
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json, set_logger

from fuxictr_mm.compat import find_model, host_loaders
from fuxictr_mm.config.experiment import check_keys, load_experiment, user_errors
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.demo.generator import best_auc, ensure_demo
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.processor import MultimodalFeatureProcessor
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.registry import register
from fuxictr_mm.run.evaluation import clicks_per_item, evaluate_split, warnings_of
from fuxictr_mm.run.provenance import current_commit
from fuxictr_mm.run.results import (
    Result,
    append_csv,
    begin,
    checkpoint_file,
    finish,
    finished_result,
    run_fingerprint,
    saved_params,
)
from fuxictr_mm.training.checkpoint import load_weights
from fuxictr_mm.training.loop import MACHINE_KEYS, run_identity, state_file

__all__ = ["Result", "finished_result", "main", "resolve_experiment", "restore_experiment", "run_experiment"]

CHALLENGE = "MicroLens_1M_x1"
STAND_IN = "MMCTR_demo"
CHALLENGE_SOURCE = "the WWW 2025 MMCTR challenge's page on Hugging Face, dataset reczoo/MicroLens_1M_MMCTR"


def resolve_experiment(
    expid: str, config_dir: str | Path | None = None, dataset_id: str | None = None
) -> dict[str, Any]:
    """Load an experiment; without the challenge's files, ``<model>_MMCTR`` becomes ``<model>_demo`` on generated data.

    Raises:
        ConfigError: unknown names, or ``dataset_id`` asks for the challenge's files and they are absent.
    """
    params = load_experiment(expid, config_dir, dataset_id)
    if params["dataset_id"] == CHALLENGE and not Path(params["train_data"]).exists():
        if dataset_id == CHALLENGE or not expid.endswith("_MMCTR"):
            raise ConfigError(
                f"--dataset {CHALLENGE}: {params['train_data']} not found; get the files from {CHALLENGE_SOURCE} and "
                f"put them in place as README says, or run with --dataset {STAND_IN}."
            )
        demo_expid = expid.removesuffix("MMCTR") + "demo"
        print(
            f"\n>>> NO CHALLENGE DATA in {Path(params['train_data']).parent}: running on the GENERATED stand-in "
            f"{STAND_IN} with the small widths of {demo_expid}; these results are not the challenge's.\n",
            flush=True,
        )
        params = load_experiment(demo_expid, config_dir)
        params["model_id"] = expid
    if params["dataset_id"] == STAND_IN and (other := ensure_demo(Path(params["train_data"]).parent)):
        changed = ", ".join(f"{name}={value}" for name, value in other.items())
        print(f"\n>>> {STAND_IN} on disk was made with other settings: {changed}\n", flush=True)
    return params


def run_experiment(
    params: dict[str, Any], *, model_zoo: ModuleType | None = None, csv_file: Path | None = None
) -> Result:
    """Build features, train, and evaluate the best weights on valid and test.

    With ``resume: True`` a run that has ended with these parameters on these data is not repeated, and one that was
    interrupted continues where its last saved state is.

    Args:
        params: from :func:`resolve_experiment`; may be changed before the call.
        model_zoo: where models are looked up; default: the ``model_zoo`` package of fuxictr's wheel.
        csv_file: FuxiCTR's results file, one row appended.

    Raises:
        ConfigError, DataError: before any training.
        TrainingInterrupted: a signal ended training, the state is saved.
    """
    model_class = _model_class(params, model_zoo)
    resume = bool(params.get("resume"))
    if resume and (result := finished_result(params)):
        if csv_file is not None:
            append_csv(csv_file, result, unless_there=True)  # a run can be killed between its two last files
        print(f"{result.file.name}: this run has ended with the same parameters and data; it is not repeated")
        return result
    fingerprint, commit = run_fingerprint(params), current_commit()
    _log_to_file(params, resume)
    logging.info("Params: " + print_to_json(params))
    _warn_without_gpu(params)
    seed_everything(seed=params["seed"])

    params, feature_map, feature_map_file = _build_features(params)
    logging.info("Feature specs: " + print_to_json(feature_map.features))
    # All splits are read, and so checked, before the first training step.
    train, valid, test = host_loaders(feature_map, {**params, "data_loader": MMCTRDataLoader})
    if valid is None:
        raise ConfigError(f"dataset {params['dataset_id']}: early stopping needs 'valid_data'; add it to the YAML.")

    model = model_class(feature_map, **params)
    model.count_parameters()
    if params.get("weights"):
        load_weights(model, params["weights"])
    if not (resume and state_file(model.checkpoint).is_file()):
        begin(params, feature_map_file)
    started = time.perf_counter()
    model.fit(train, validation_data=valid, **params)
    seconds = getattr(model, "train_seconds", time.perf_counter() - started)
    clicks = clicks_per_item(train)
    logging.info("****** Validation evaluation ******")
    evaluated = {"valid": evaluate_split(model, valid, params["metrics"], clicks)}
    if test is not None and test.has_label:
        logging.info("******** Test evaluation ********")
        evaluated["test"] = evaluate_split(model, test, params["metrics"], clicks)
    elif test is not None:
        logging.info(f"{params['test_data']} has no label column: no test metrics.")

    best = {split: best_auc(params[f"{split}_data"]) for split in evaluated}
    result = Result(
        expid=params["model_id"],
        dataset_id=params["dataset_id"],
        valid=evaluated["valid"].overall,
        test=evaluated["test"].overall if "test" in evaluated else {},
        best_possible={split: auc for split, auc in best.items() if auc is not None},
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=seconds,
        checkpoint=Path(model.checkpoint),
        commit=commit,
        by_frequency={split: found.by_frequency for split, found in evaluated.items()},
        curve=getattr(model, "curve", []),
        warnings=warnings_of(model, valid, evaluated),
    )
    for sentence in result.warnings:
        logging.warning(sentence)
    finish(result, fingerprint)
    if csv_file is not None:
        append_csv(csv_file, result)
    return result


def restore_experiment(params: dict[str, Any], weights: str | Path | None = None) -> tuple[Any, FeatureMap]:
    """Build a trained model again, in eval mode on the device of ``params["gpu"]``.

    Without ``weights`` it is the model as it was trained: the parameters and the feature map that the run noted when it
    began, and its best weights, whatever the YAML says by now. With ``weights`` it is the model that the YAML describes
    with the weights of that file, published ones for example.

    Args:
        params: from :func:`resolve_experiment`, and ``gpu``.
        weights: ``.model``, ``.pth`` or ``.safetensors`` file of a state dict.

    Returns:
        ``(model, feature_map)``; ``feature_map.data_dir`` is the folder of the item table that its columns name.

    Raises:
        ConfigError: the experiment has not been trained here.
        DataError: the weights are damaged or do not fit.
    """
    _warn_without_gpu(params)
    checkpoint = checkpoint_file(params)
    if weights is None:
        trained = saved_params(checkpoint)
        if trained is None or not checkpoint.is_file():
            raise ConfigError(
                f"{checkpoint}: no weights of experiment {params['model_id']} on {params['dataset_id']}; train it with "
                f"run_expid.py --expid {params['model_id']}, or give --weights FILE."
            )
        for key in {**trained, **run_identity(params)}:
            before, now = (str(source.get(key, "its default")) for source in (trained, params))
            if before != now:
                logging.warning(
                    f"{checkpoint.name} was trained with {key} = {before}; the YAML now says {now}, which is not used."
                )
        params = {**trained, **{key: params[key] for key in MACHINE_KEYS if key in params}}
        model_class = _model_class(params)
        data_dir = str(Path(params["data_root"]) / params["dataset_id"])
        feature_map = FeatureMap(params["dataset_id"], data_dir)
        feature_map.load(str(checkpoint.with_suffix(".feature_map.json")), params)
    else:
        model_class = _model_class(params)
        params, feature_map, _ = _build_features(params)
    model = model_class(feature_map, **params)
    load_weights(model, weights or checkpoint)
    return model.eval(), feature_map


def _model_class(params: dict[str, Any], model_zoo: ModuleType | None = None) -> type:
    """Find the model and check every parameter against what reads it."""
    model_zoo = model_zoo or import_module("model_zoo")
    register(model_zoo)
    model_class = find_model(model_zoo, params.get("model", "(no key 'model')"))
    check_keys(params, model_class)
    trained = [c["name"] for c in params["feature_cols"] if c.get("active", True) and not c.get("freeze_emb", True)]
    if trained and not issubclass(model_class, MultimodalRankModel):
        raise ConfigError(
            f"column {trained[0]!r}: freeze_emb: False needs a model of fuxictr_mm; {model_class.__name__} would leave "
            "the vectors as they are. Take the key out, or another model."
        )
    return model_class


def _build_features(params: dict[str, Any]) -> tuple[dict[str, Any], FeatureMap, str]:
    """Build or reuse the item table; returns the parameters with FuxiCTR's data paths, the feature map and its file."""
    processor = MultimodalFeatureProcessor(**params)
    paths = dict(zip(("train_data", "valid_data", "test_data"), build_dataset(processor, **params)))
    feature_map = FeatureMap(params["dataset_id"], processor.data_dir)
    feature_map.load(processor.json_file, params)
    assert processor.item_table.path is not None  # the processor has saved it
    tables = {spec["item_table"] for spec in feature_map.features.values() if "item_table" in spec}
    if tables != {processor.item_table.path.name}:
        raise ConfigError(
            f"{processor.json_file}: another run has just written this feature map for other feature_cols; give runs "
            "with different feature_cols dataset ids of their own, as run_param_tuner.py does."
        )
    return {**params, **paths}, feature_map, processor.json_file


def _warn_without_gpu(params: dict[str, Any]) -> None:
    if params.get("gpu", -1) >= 0 and not torch.cuda.is_available():
        logging.warning(f"--gpu {params['gpu']}: torch {torch.__version__} finds no CUDA device; running on the CPU.")


def _log_to_file(params: dict[str, Any], resume: bool) -> None:
    """FuxiCTR's logging; the log of a resumed run goes on, where FuxiCTR's would begin anew."""
    log_file = checkpoint_file(params).with_suffix(".log")
    if not (resume and log_file.is_file()):
        set_logger(params)
        return
    handlers: list[logging.Handler] = [logging.FileHandler(log_file, mode="a"), logging.StreamHandler()]
    line = "%(asctime)s P%(process)d %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, handlers=handlers, force=True)


def main(argv: list[str] | None = None, *, csv_dir: Path) -> None:
    """Command line of ``run_expid.py``: FuxiCTR's arguments, and ``--dataset``, ``--resume`` and ``--weights``.

    Args:
        argv: arguments without the program's name.
        csv_dir: where FuxiCTR's results file is kept (FuxiCTR: the folder of the script).
    """
    parser = argparse.ArgumentParser(description="Run one experiment of FuxiCTR with multimodal models.")
    parser.add_argument("--config", default=None, help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--expid", default="Transformer_DCNv2_MMCTR", help="experiment id (default: %(default)s)")
    parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")
    parser.add_argument("--dataset", default=None, help="dataset id, instead of the experiment's own")
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run; one that has ended is not repeated"
    )
    parser.add_argument("--weights", default=None, help="begin with these weights (.model, .pth, .safetensors)")
    args = parser.parse_args(argv)
    with user_errors(f"python {shlex.join([*dict.fromkeys([*sys.argv, '--resume'])])}"):
        params = resolve_experiment(args.expid, args.config, args.dataset)
        params["gpu"] = args.gpu
        if args.resume:
            params["resume"] = True
        if args.weights:
            params["weights"] = str(Path(args.weights).resolve())
        name = Path(args.config).name.removesuffix(".yaml") if args.config else "config"
        result = run_experiment(params, csv_file=csv_dir / f"{name}.csv")
        print("\n" + result.to_table())
        print(f"checkpoint: {result.checkpoint}\nlog:        {result.checkpoint.with_suffix('.log')}")
        print(f"results:    {csv_dir / f'{name}.csv'}")
