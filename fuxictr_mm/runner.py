"""One experiment from YAML to result, on FuxiCTR's own machinery and with FuxiCTR's outputs."""

import argparse
import hashlib
import json
import logging
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import build_dataset
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json, print_to_list, set_logger

from fuxictr_mm.compat import find_model, host_loaders
from fuxictr_mm.config import check_keys, load_experiment, user_errors
from fuxictr_mm.data.demo import best_auc, ensure_demo
from fuxictr_mm.data.loader import MMCTRDataLoader
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.processor import MultimodalFeatureProcessor
from fuxictr_mm.files import atomic_write, file_fingerprint
from fuxictr_mm.registration import register

__all__ = ["Result", "finished_result", "main", "resolve_experiment", "run_experiment"]

CHALLENGE = "MicroLens_1M_x1"
STAND_IN = "MMCTR_demo"
CHALLENGE_SOURCE = "the WWW 2025 MMCTR challenge's page on Hugging Face, dataset reczoo/MicroLens_1M_MMCTR"


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
    """

    expid: str
    dataset_id: str
    valid: dict[str, float]
    test: dict[str, float]
    best_possible: dict[str, float]
    parameters: int
    seconds: float
    checkpoint: Path

    @property
    def file(self) -> Path:
        """JSON of this result, beside the checkpoint."""
        return self.checkpoint.with_suffix(".result.json")

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
        return "\n".join(lines)


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

    Args:
        params: from :func:`resolve_experiment`; may be changed before the call.
        model_zoo: where models are looked up; default: the ``model_zoo`` package of fuxictr's wheel.
        csv_file: FuxiCTR's results file, one row appended.

    Raises:
        ConfigError, DataError: before any training.
    """
    model_zoo = model_zoo or import_module("model_zoo")
    register(model_zoo)
    model_class = find_model(model_zoo, params.get("model", "(no key 'model')"))
    check_keys(params, model_class)
    fingerprint = _fingerprint(params)
    params = {**params, "data_loader": MMCTRDataLoader}
    set_logger(params)
    logging.info("Params: " + print_to_json(params))
    if params["gpu"] >= 0 and not torch.cuda.is_available():
        logging.warning(f"--gpu {params['gpu']}: torch {torch.__version__} finds no CUDA device; running on the CPU.")
    seed_everything(seed=params["seed"])

    processor = MultimodalFeatureProcessor(**params)
    params["train_data"], params["valid_data"], params["test_data"] = build_dataset(processor, **params)
    feature_map = FeatureMap(params["dataset_id"], processor.data_dir)
    feature_map.load(processor.json_file, params)
    assert processor.item_table.path is not None  # the processor has saved it
    tables = {spec["item_table"] for spec in feature_map.features.values() if "item_table" in spec}
    if tables != {processor.item_table.path.name}:
        raise ConfigError(
            f"{processor.json_file}: another run has just written this feature map for other feature_cols; give runs "
            "with different feature_cols dataset ids of their own, as FuxiCTR's tuner does."
        )
    logging.info("Feature specs: " + print_to_json(feature_map.features))
    # All splits are read, and so checked, before the first training step.
    train, valid, test = host_loaders(feature_map, params)
    if valid is None:
        raise ConfigError(f"dataset {params['dataset_id']}: early stopping needs 'valid_data'; add it to the YAML.")

    model = model_class(feature_map, **params)
    model.count_parameters()
    started = time.perf_counter()
    model.fit(train, validation_data=valid, **params)
    seconds = time.perf_counter() - started
    logging.info("****** Validation evaluation ******")
    valid_result = model.evaluate(valid)
    test_result: dict[str, float] = {}
    if test is not None and test.has_label:
        logging.info("******** Test evaluation ********")
        test_result = model.evaluate(test)
    elif test is not None:
        logging.info(f"{params['test_data']} has no label column: no test metrics.")

    scored = {"valid": valid_result, "test": test_result}
    best = {split: best_auc(params[f"{split}_data"]) for split, metrics in scored.items() if metrics}
    result = Result(
        expid=params["model_id"],
        dataset_id=params["dataset_id"],
        valid=dict(valid_result),
        test=dict(test_result),
        best_possible={split: auc for split, auc in best.items() if auc is not None},
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=seconds,
        checkpoint=Path(model.checkpoint),
    )
    _write_result(result, fingerprint)
    if csv_file is not None:
        _append_csv(csv_file, result)
    return result


def finished_result(params: dict[str, Any]) -> Result | None:
    """Return the saved result of exactly these parameters on exactly these data files, or ``None``."""
    checkpoint = Path(params["model_root"]) / params["dataset_id"] / f"{params['model_id']}.model"
    file = checkpoint.with_suffix(".result.json")
    if not file.is_file():
        return None
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved.pop("params_fingerprint") != _fingerprint(params):
        return None
    return Result(**{**saved, "checkpoint": checkpoint})


def _fingerprint(params: dict[str, Any]) -> str:
    """Digest of the parameters and of the bytes of the data files."""
    paths = [params.get(key) for key in ("train_data", "valid_data", "test_data", "item_info", "item_feature")]
    paths += (params.get("modality_data") or {}).values()
    data = [file_fingerprint(path) for path in paths if path and Path(path).is_file()]
    return hashlib.blake2b((print_to_json(params) + str(data)).encode(), digest_size=8).hexdigest()


def _write_result(result: Result, fingerprint: str) -> None:
    record = {**asdict(result), "checkpoint": result.checkpoint.name, "params_fingerprint": fingerprint}
    with atomic_write(result.file) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _append_csv(csv_file: Path, result: Result) -> None:
    """FuxiCTR's row, in FuxiCTR's form; one write call, so that rows of parallel runs do not mix."""
    row = (
        f" {datetime.now():%Y%m%d-%H%M%S},[command] python {shlex.join(sys.argv)},[exp_id] {result.expid},"
        f"[dataset_id] {result.dataset_id},[train] N.A.,[val] {print_to_list(result.valid)},"
        f"[test] {print_to_list(result.test)}\n"
    )
    with open(csv_file, "a", encoding="utf-8") as stream:
        stream.write(row)


def main(argv: list[str] | None = None, *, csv_dir: Path) -> None:
    """Command line of ``run_expid.py``: FuxiCTR's arguments, and ``--dataset``.

    Args:
        argv: arguments without the program's name.
        csv_dir: where FuxiCTR's results file is kept (FuxiCTR: the folder of the script).
    """
    parser = argparse.ArgumentParser(description="Run one experiment of FuxiCTR with multimodal models.")
    parser.add_argument("--config", default=None, help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--expid", default="Transformer_DCNv2_MMCTR", help="experiment id (default: %(default)s)")
    parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")
    parser.add_argument("--dataset", default=None, help="dataset id, instead of the experiment's own")
    args = parser.parse_args(argv)
    with user_errors():
        params = resolve_experiment(args.expid, args.config, args.dataset)
        params["gpu"] = args.gpu
        name = Path(args.config).name.removesuffix(".yaml") if args.config else "config"
        result = run_experiment(params, csv_file=csv_dir / f"{name}.csv")
        print("\n" + result.to_table())
        print(f"checkpoint: {result.checkpoint}\nlog:        {result.checkpoint.with_suffix('.log')}")
        print(f"results:    {csv_dir / f'{name}.csv'}")
