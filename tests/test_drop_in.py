"""A user's own FuxiCTR script with the three changed lines, and with a loader that is not ours."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything

import fuxictr_mm
from tests.synthetic import RUN_PARAMS, write_cluster_dataset

MODEL_PARAMS: dict[str, Any] = {**RUN_PARAMS, "model_id": "mine", "seed": 3, "epochs": 2, "gpu": -1}
SMALL = {
    "Transformer_DCNv2": {"dcn_hidden_units": [16], "mlp_hidden_units": [8], "dim_feedforward": 16, "first_k_cols": 2},
    "DIN_SE_MHTA": {"dnn_hidden_units": [16]},
}


class ChallengeStyleLoader:
    """The challenge's form: padded to max_len, one item row per position, float mask with 1 = real."""

    num_blocks = 1

    def __init__(self, feature_map: Any, data_path: str, split: str = "train", **params: Any) -> None:
        ours = fuxictr_mm.MMCTRDataLoader(feature_map, data_path, split=split, **{**params, "trim": False})
        self.batches = [tuple(batch) for batch in ours]
        self.num_samples = ours.num_samples

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


@pytest.mark.parametrize("loader", [fuxictr_mm.MMCTRDataLoader, ChallengeStyleLoader])
@pytest.mark.parametrize("model", SMALL)
def test_an_existing_script(model: str, loader: type, tmp_path: Path) -> None:
    dataset = write_cluster_dataset(tmp_path, rows=1000)
    params = {**MODEL_PARAMS, **SMALL[model], "model": model, **dataset, "dataset_id": "clusters"}
    for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
        params[key] = str(tmp_path / params[key])
    params["model_root"] = str(tmp_path / "checkpoints")
    model_zoo = ModuleType("my_models")

    fuxictr_mm.register(model_zoo)  # changed line 1
    seed_everything(seed=params["seed"])
    feature_encoder = fuxictr_mm.MultimodalFeatureProcessor(**params)  # changed line 2
    params["train_data"], params["valid_data"], params["test_data"] = build_dataset(feature_encoder, **params)
    feature_map = FeatureMap(params["dataset_id"], feature_encoder.data_dir)
    feature_map.load(feature_encoder.json_file, params)
    net = getattr(model_zoo, params["model"])(feature_map, **params)
    net.count_parameters()
    params["data_loader"] = loader  # changed line 3
    train_gen, valid_gen = RankDataLoader(feature_map, stage="train", **params)
    net.fit(train_gen, validation_data=valid_gen, **params)
    valid_result = net.evaluate(valid_gen)
    test_gen = RankDataLoader(feature_map, stage="test", **params)
    test_result = net.evaluate(test_gen)

    assert set(valid_result) == set(test_result) == {"AUC", "logloss", "gAUC"}
    assert Path(net.checkpoint).is_file()
    assert np.isfinite(net.predict(test_gen)).all()


@pytest.mark.parametrize("model", SMALL)
def test_both_loaders_give_the_same_scores(model: str, tmp_path: Path) -> None:
    dataset = write_cluster_dataset(tmp_path, rows=600)
    params = {**MODEL_PARAMS, **SMALL[model], **dataset, "dataset_id": "clusters", "model_root": str(tmp_path)}
    for key in ("data_root", "train_data", "valid_data", "test_data", "item_info"):
        params[key] = str(tmp_path / params[key])
    processor = fuxictr_mm.MultimodalFeatureProcessor(**params)
    build_dataset(processor, **params)
    net = getattr(fuxictr_mm, model)(processor.feature_map, **params)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    arguments = {"split": "test", "max_len": 5, "batch_size": 64}
    ours = net.predict(fuxictr_mm.MMCTRDataLoader(processor.feature_map, params["test_data"], **arguments))
    theirs = net.predict(ChallengeStyleLoader(processor.feature_map, params["test_data"], **arguments))
    assert ours.std() > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
