"""An existing user's own script, before and after: FuxiCTR's run_expid.py with the challenge's YAML and loader."""

import inspect
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fuxictr.preprocess import build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from torch.utils.data import DataLoader, Dataset, default_collate

import fuxictr_mm
from fuxictr_mm.demo.generator import DemoSettings, generate_demo
from tests.synthetic import RUN_PARAMS

ITEMS = 300
MAX_LEN = 12

# The user's script on 2.3.7, 2.3.9 and FuxiCTR's master; on the wheel 2.3.10 it has no .make_iterator().
SCRIPT = """
import argparse
import gc
import logging
import os
import sys
from datetime import datetime
from pathlib import Path

import model_zoo
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import load_config, print_to_json, print_to_list, set_logger

from tests.test_drop_in import ChallengeLoader

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--config', type=str, default='./config/', help='The config directory.')
    parser.add_argument('--expid', type=str, default='DeepFM_test', help='The experiment id to run.')
    parser.add_argument('--gpu', type=int, default=-1, help='The gpu index, -1 for cpu')
    args = vars(parser.parse_args())

    experiment_id = args['expid']
    params = load_config(args['config'], experiment_id)
    params['gpu'] = args['gpu']
    set_logger(params)
    logging.info("Params: " + print_to_json(params))
    seed_everything(seed=params['seed'])

    data_dir = os.path.join(params['data_root'], params['dataset_id'])
    feature_map_json = os.path.join(data_dir, "feature_map.json")
    feature_encoder = FeatureProcessor(**params)
    params["train_data"], params["valid_data"], params["test_data"] = \\
        build_dataset(feature_encoder, **params)
    feature_map = FeatureMap(params['dataset_id'], data_dir)
    feature_map.load(feature_map_json, params)
    logging.info("Feature specs: " + print_to_json(feature_map.features))

    model_class = getattr(model_zoo, params['model'])
    model = model_class(feature_map, **params)
    model.count_parameters()

    params["data_loader"] = ChallengeLoader
    train_gen, valid_gen = RankDataLoader(feature_map, stage='train', **params).make_iterator()
    model.fit(train_gen, validation_data=valid_gen, **params)

    logging.info('****** Validation evaluation ******')
    valid_result = model.evaluate(valid_gen)
    del train_gen, valid_gen
    gc.collect()

    test_result = {}
    if params["test_data"]:
        logging.info('******** Test evaluation ********')
        test_gen = RankDataLoader(feature_map, stage='test', **params).make_iterator()
        test_result = model.evaluate(test_gen)

    result_filename = Path(args['config']).name.replace(".yaml", "") + '.csv'
    with open(result_filename, 'a+') as fw:
        fw.write(' {},[command] python {},[exp_id] {},[dataset_id] {},[train] {},[val] {},[test] {}\\n' \\
            .format(datetime.now().strftime('%Y%m%d-%H%M%S'),
                    ' '.join(sys.argv), experiment_id, params['dataset_id'],
                    "N.A.", print_to_list(valid_result), print_to_list(test_result)))
"""
REGISTER = ("import model_zoo\n", "import model_zoo; import fuxictr_mm; fuxictr_mm.register(model_zoo)\n")
PROCESSOR = ("= FeatureProcessor(**params)", "= fuxictr_mm.MultimodalFeatureProcessor(**params)")
LOADER = ('params["data_loader"] = ChallengeLoader', 'params["data_loader"] = fuxictr_mm.MMCTRDataLoader')
ALL_THREE = (REGISTER, PROCESSOR, LOADER)

HOST_FORM = "class" if inspect.isclass(RankDataLoader) else "function"
FORMS = [
    pytest.param(
        form, marks=pytest.mark.skipif(form != HOST_FORM, reason=f"RankDataLoader of this fuxictr is a {HOST_FORM}")
    )
    for form in ("class", "function")
]

MODELS: dict[str, dict[str, Any]] = {
    "Transformer_DCNv2": {"dcn_hidden_units": [16], "mlp_hidden_units": [8], "dim_feedforward": 16, "first_k_cols": 2},
    "DIN_SE_MHTA": {"dnn_hidden_units": [16]},
}
BASE = {**RUN_PARAMS, "max_len": MAX_LEN, "model_root": "checkpoints", "seed": 3, "epochs": 2, "num_workers": 0}
DATASET: dict[str, Any] = {
    "data_root": "data",
    "data_format": "parquet",
    "rebuild_dataset": False,
    "train_data": "data/train.parquet",
    "valid_data": "data/valid.parquet",
    "test_data": "data/test.parquet",
    "item_info": "data/item_info.parquet",
    "group_id": "user_id",
    "feature_cols": [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "likes_level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 11},
        {"name": "views_level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 11},
        {
            "name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item",
            "vocab_size": ITEMS + 1,
        },
        {
            "name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "source": "item", "max_len": 5,
            "vocab_size": 11740, "feature_encoder": "layers.MaskedAveragePooling()",
        },
        {
            "name": "item_emb_d128", "active": True, "dtype": "float", "type": "embedding", "source": "item",
            "embedding_dim": 128, "pretrain_dim": 128,
        },
    ],
    "label_col": {"name": "label", "dtype": "float"},
}  # fmt: skip


class ParquetRows(Dataset):
    """The challenge's dataset: all columns of a split side by side in one matrix."""

    def __init__(self, path: str) -> None:
        frame = pd.read_parquet(path)
        self.column_index: dict[str, Any] = {}
        arrays, width = [], 0
        for name in frame.columns:
            values = np.array(frame[name].to_list())
            count = 1 if values.ndim == 1 else values.shape[1]
            self.column_index[name] = width if values.ndim == 1 else list(range(width, width + count))
            arrays.append(values)
            width += count
        self.rows = np.column_stack(arrays)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rows[index, :]

    def __len__(self) -> int:
        return len(self.rows)


class Collator:
    """``(batch_dict, item_dict, mask)`` by ``iloc`` in the item table, whose row i is item i; the mask has 1 = real."""

    def __init__(self, feature_map: Any, max_len: int, column_index: dict[str, Any], item_info: str) -> None:
        self.columns = {*feature_map.features, *feature_map.labels}
        self.item_info = pd.read_parquet(item_info)
        self.max_len = max_len
        self.column_index = column_index

    def __call__(self, rows: list[np.ndarray]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        batch = default_collate(rows)
        batch_dict = {name: batch[:, at] for name, at in self.column_index.items() if name in self.columns}
        history = batch[:, self.column_index["item_seq"]].long()[:, -self.max_len :]
        mask = (history > 0).float()
        target = batch_dict.pop("item_id").long().reshape(-1, 1)
        items = self.item_info.iloc[np.hstack([history.numpy(), target.numpy()]).flatten()]
        item_dict = {
            name: torch.from_numpy(np.array(items[name].to_list())) for name in items.columns if name in self.columns
        }
        return batch_dict, item_dict, mask


class ChallengeLoader(DataLoader):
    """What a participant has as ``MMCTRDataLoader``: shares no line and no stored form with ours."""

    def __init__(
        self,
        feature_map: Any,
        data_path: str,
        item_info: str,
        batch_size: int = 32,
        shuffle: bool = False,
        num_workers: int = 1,
        max_len: int = 100,
        **kwargs: Any,
    ) -> None:
        rows = ParquetRows(data_path if data_path.endswith(".parquet") else data_path + ".parquet")
        collate = Collator(feature_map, max_len, rows.column_index, item_info)
        super().__init__(rows, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, collate_fn=collate)
        self.num_samples = len(rows)
        self.num_blocks = 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenge")
    settings = DemoSettings(items=ITEMS, rows=600, valid_rows=200, test_rows=200, text_width=160, image_width=160)
    generate_demo(folder, settings)
    return folder


@pytest.fixture
def project(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: data, config directory, and the working directory of the script."""
    (tmp_path / "data").mkdir()
    for file in data.glob("*.parquet"):
        (tmp_path / "data" / file.name).symlink_to(file)
    config = tmp_path / "config"
    config.mkdir()
    experiments = {f"{name}_mine": {"model": name, "dataset_id": "mine", **MODELS[name]} for name in MODELS}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"Base": BASE, **experiments}))
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"mine": DATASET}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_script(
    form: str, changes: tuple[tuple[str, str], ...], expid: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Run the user's script with these lines changed; returns its variables."""
    assert SCRIPT.count(".make_iterator()") == 2
    text = SCRIPT if form == "class" else SCRIPT.replace(".make_iterator()", "")
    for before, after in changes:
        assert text.count(before) == 1
        text = text.replace(before, after)
    script = project / "run_expid.py"
    script.write_text(text)
    monkeypatch.setattr("sys.argv", [str(script), "--config", "./config", "--expid", expid])
    return runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("changes", [ALL_THREE, (REGISTER,)], ids=["three_lines", "registered_alone"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_a_users_script(
    form: str, model: str, changes: tuple[tuple[str, str], ...], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with all three lines, once with the models registered and the user's own processor and loader kept."""
    variables = run_script(form, changes, f"{model}_mine", project, monkeypatch)
    net, ours = variables["model"], changes == ALL_THREE
    assert type(net) is getattr(fuxictr_mm, model)
    assert type(variables["test_gen"]) is (fuxictr_mm.MMCTRDataLoader if ours else ChallengeLoader)
    for result in (variables["valid_result"], variables["test_result"]):
        assert set(result) == {"AUC", "logloss", "gAUC"}
        assert all(np.isfinite(value) for value in result.values())
    assert Path(net.checkpoint).resolve() == project / "checkpoints" / "mine" / f"{model}_mine.model"
    assert net.load_state_dict(torch.load(net.checkpoint, weights_only=True))
    row = (project / "config.csv").read_text()
    assert f"[exp_id] {model}_mine,[dataset_id] mine" in row
    assert f"[test] AUC: {variables['test_result']['AUC']:.6f} - logloss: " in row


@pytest.mark.parametrize("model", MODELS)
def test_the_challenges_batches_and_ours_give_the_same_scores(model: str, project: Path) -> None:
    params = {**BASE, **MODELS[model], **DATASET, "dataset_id": "mine", "gpu": -1}
    processor = fuxictr_mm.MultimodalFeatureProcessor(**params)
    build_dataset(processor, **params)
    net = getattr(fuxictr_mm, model)(processor.feature_map, **params)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    arguments: dict[str, Any] = {
        "data_path": "data/test.parquet", "item_info": "data/item_info.parquet", "split": "test",
        "batch_size": 64, "max_len": MAX_LEN, "num_workers": 0,
    }  # fmt: skip
    theirs = ChallengeLoader(processor.feature_map, **arguments)
    mask = torch.cat([batch[2] for batch in theirs])
    assert mask.shape[1] == MAX_LEN and 0 < mask.mean() < 1  # padded, as the challenge has it
    scores = net.predict(fuxictr_mm.MMCTRDataLoader(processor.feature_map, **arguments))
    assert scores.std() > 1e-3
    np.testing.assert_allclose(net.predict(theirs), scores, rtol=0, atol=1e-6)
