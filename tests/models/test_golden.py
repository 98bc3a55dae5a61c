"""Three training steps of every variant of every model: a change that moves these numbers says why in CHANGELOG.md.

``python -m tests.models.test_golden`` stores the losses of variants that have none yet, with the arguments that they
were made with (torch 2.13.0, CPU). To replace one, delete it from the file first.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fuxictr.pytorch.torch_utils import seed_everything

from tests.models.zoo import VARIANTS, small
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

FILE = Path(__file__).with_name("golden_losses.json")
STORED: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def losses(variant: str, arguments: dict[str, Any], folder: Path) -> list[float]:
    seed_everything(7)
    model = VARIANTS[variant][0](
        tiny_feature_map(folder), model_root=str(folder), **{**MODEL_KWARGS, **arguments, "learning_rate": 0.01}
    )
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    model.train()
    batch = tiny_challenge_batch(model.feature_map, (4, 0, 6, 1, 2, 3))
    return [float(model.train_step(batch)) for _ in range(3)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_steps(variant: str, tmp_path: Path) -> None:
    if variant not in STORED:
        pytest.fail(f"no loss of {variant!r} is stored: python -m tests.models.test_golden", pytrace=False)
    expected = STORED[variant]
    torch.testing.assert_close(
        losses(variant, expected["arguments"], tmp_path), expected["losses"], rtol=1e-5, atol=1e-6
    )


def test_nothing_is_stored_of_a_variant_that_is_gone() -> None:
    assert not set(STORED) - set(VARIANTS)


if __name__ == "__main__":
    for name, (model_class, switches) in VARIANTS.items():
        if name not in STORED:
            arguments = {**small(model_class, dropout=False), **switches}
            STORED[name] = {"arguments": arguments, "losses": losses(name, arguments, Path("unused"))}
    lines = (f"{json.dumps(name)}: {json.dumps(STORED[name])}" for name in sorted(STORED))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
