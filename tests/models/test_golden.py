"""Three training steps per model: a change that moves these numbers says why in CHANGELOG.md.

Made by ``python -m tests.models.test_golden`` (torch 2.13.0, CPU).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_mm.models import DIN_SE_MHTA, Transformer_DCNv2
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

FILE = Path(__file__).with_name("golden_losses.json")
MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "DIN_SE_MHTA": (DIN_SE_MHTA, {"dnn_hidden_units": [8, 6], "num_heads": 2, "net_dropout": 0.0}),
    "Transformer_DCNv2": (
        Transformer_DCNv2,
        {"dcn_hidden_units": [8, 6], "mlp_hidden_units": [5], "dim_feedforward": 9, "first_k_cols": 2}
        | {"transformer_dropout": 0.0, "net_dropout": 0.0},
    ),
}


def losses(name: str, folder: Path) -> list[float]:
    model_class, kwargs = MODELS[name]
    seed_everything(7)
    model = model_class(
        tiny_feature_map(folder), model_root=str(folder), **{**MODEL_KWARGS, **kwargs, "learning_rate": 0.01}
    )
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    model.train()
    batch = tiny_challenge_batch(model.feature_map, (4, 0, 6, 1, 2, 3))
    return [float(model.train_step(batch)) for _ in range(3)]


@pytest.mark.parametrize("name", MODELS)
def test_three_steps(name: str, tmp_path: Path) -> None:
    torch.testing.assert_close(losses(name, tmp_path), json.loads(FILE.read_text())[name], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: losses(name, Path("unused")) for name in MODELS}, indent=1) + "\n")
