"""What is done faster gives what the host gives; what is done cheaper gives nearly that."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuxictr.pytorch.models import BaseModel
from torch import nn

from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import DIN_SE_MHTA, MultimodalRankModel, Transformer_DCNv2
from tests.synthetic import MODEL_KWARGS, tiny_challenge_batch, tiny_feature_map

WIDTHS: dict[str, Any] = {
    "dcn_hidden_units": [8, 6],
    "mlp_hidden_units": [5],
    "dim_feedforward": 9,
    "first_k_cols": 3,
    "transformer_dropout": 0.0,
    "net_dropout": 0.0,
}
LENGTHS = (4, 0, 6, 1, 2, 3)


def transformer(folder: Path, **changes: Any) -> Transformer_DCNv2:
    torch.manual_seed(0)
    settings = {**MODEL_KWARGS, **WIDTHS, "model_root": str(folder), "learning_rate": 0.01, **changes}
    return started(Transformer_DCNv2(tiny_feature_map(folder), **settings))


def din(folder: Path, **changes: Any) -> DIN_SE_MHTA:
    torch.manual_seed(0)
    settings = {**MODEL_KWARGS, "dnn_hidden_units": [8], "num_heads": 2, "model_root": str(folder), **changes}
    return started(DIN_SE_MHTA(tiny_feature_map(folder), learning_rate=0.01, net_dropout=0.0, **settings))


def started(model: Any) -> Any:
    model._max_gradient_norm, model._batch_index, model._steps_per_epoch = 10.0, 0, 1
    return model


def batches(model: MultimodalRankModel, count: int = 3) -> list[Any]:
    return [tiny_challenge_batch(model.feature_map, LENGTHS, seed=seed) for seed in range(count)]


@pytest.mark.parametrize("build", [transformer, din])
def test_evaluate_and_predict_are_the_hosts(build: Any, tmp_path: Path) -> None:
    model = build(tmp_path)
    metrics = ["AUC", "logloss", "gAUC"]
    for batch in (data := batches(model)):
        batch[0]["user_id"] //= 2  # groups of two rows with both labels
    ours, host = model.evaluate(data, metrics), BaseModel.evaluate(model, data, metrics)
    assert ours == host
    assert model.evaluate(data) == BaseModel.evaluate(model, data)  # the experiment's own metrics
    answer = model.predict(data)
    assert answer.dtype == np.float64
    assert np.array_equal(answer, BaseModel.predict(model, data))


def test_a_single_row_is_evaluated(tmp_path: Path) -> None:
    model = transformer(tmp_path)
    logs = model.evaluate([tiny_challenge_batch(model.feature_map, (2,))], ["logloss"])
    assert np.isfinite(logs["logloss"])


@pytest.mark.parametrize("optimizer", ["adam", "AdamW", "SGD", "Adagrad"])
def test_a_fused_optimizer_takes_the_same_steps(optimizer: str, tmp_path: Path) -> None:
    model, plain = transformer(tmp_path, optimizer=optimizer), transformer(tmp_path, optimizer=optimizer)
    plain.optimizer = type(plain.optimizer)(plain.parameters(), lr=0.01)
    assert model.optimizer.param_groups[0]["fused"]
    assert not plain.optimizer.param_groups[0].get("fused")
    for seed in range(5):
        torch.manual_seed(seed)
        # The same gradients for both: of those that are nearly zero, Adam would blow up the rounding.
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        model.optimizer.step()
        plain.optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_optimizer_that_torch_cannot_fuse_stays(tmp_path: Path) -> None:
    model = transformer(tmp_path, optimizer="RMSprop")
    assert "fused" not in model.optimizer.param_groups[0]
    model.train_step(batches(model, 1)[0])


@pytest.mark.parametrize("max_norm", [1e-3, 0.999, 1.0, 1.001, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(max_norm: float, tmp_path: Path) -> None:
    model = transformer(tmp_path)
    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    expected = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, other, gradient in zip(model.parameters(), expected, gradients, strict=True):
        parameter.grad, other.grad = gradient / length, gradient / length  # together of norm 1
    frozen = next(model.parameters())
    frozen.grad = None
    expected[0].grad = None
    model.clip_gradients(max_norm)
    nn.utils.clip_grad_norm_(expected, max_norm)
    for parameter, other in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None and other.grad is None) or torch.equal(parameter.grad, other.grad)


@pytest.mark.parametrize("cross", ["full", "low_rank", "none"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_skipping_absent_slots_takes_the_same_steps(accumulation_steps: int, cross: str, tmp_path: Path) -> None:
    """The whole model, trained: with slots skipped, and dense."""
    losses: dict[float, list[float]] = {}
    for min_width in (math.inf, 0):
        model = transformer(tmp_path, accumulation_steps=accumulation_steps, cross=cross)
        model.slots.min_width = min_width
        model._steps_per_epoch = 6
        losses[min_width] = []
        for index, batch in enumerate(batches(model, 6)):
            model._batch_index = index
            losses[min_width].append(float(model.train_step(batch)))
        model.eval()
        losses[min_width] += model.predict(batches(model)).tolist()
    assert losses[0] == pytest.approx(losses[math.inf], rel=1e-5, abs=1e-6)
    assert len(set(losses[math.inf])) > 10


def test_the_published_mask_has_no_absent_slots(tmp_path: Path) -> None:
    answers = []
    for min_width in (math.inf, 0):
        model = transformer(tmp_path, padding_mask="as_published")
        model.slots.min_width = min_width
        answers.append(model.predict(batches(model)))
    assert np.array_equal(*answers)


@pytest.mark.parametrize("build", [transformer, din])
def test_bf16_is_close_and_its_probabilities_are_fine_grained(build: Any, tmp_path: Path) -> None:
    exact, cheap = build(tmp_path), build(tmp_path, amp="bf16")
    for model in (exact, cheap):
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                torch.manual_seed(len(name))
                parameter.normal_(std=0.3)
    data = batches(exact)
    expected, answer = exact.predict(data), cheap.predict(data)
    assert not np.array_equal(answer, expected)  # or nothing was cheaper
    np.testing.assert_allclose(answer, expected, atol=0.03)
    as_bf16 = torch.from_numpy(answer).bfloat16().double().numpy()
    assert (answer != as_bf16).any()  # the last layer is float32
    loss = cheap.train_step(data[0])
    assert torch.isfinite(loss)
    assert all(parameter.dtype == torch.float32 for parameter in cheap.parameters())


def test_an_unknown_amp_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'amp': found 'fp8'; one of 'none' or 'bf16' is expected"):
        transformer(tmp_path, amp="fp8")


@pytest.mark.slow
@pytest.mark.parametrize("build", [transformer, din])
def test_a_compiled_model_takes_the_same_steps(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.compile as it is, less the C++ compiler: minutes in a suite. benchmarks/step.py compares losses with it.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    eager, compiled = build(tmp_path), build(tmp_path, torch_compile=True)
    batch = batches(eager)[0]
    for _ in range(2):
        torch.testing.assert_close(compiled.train_step(batch), eager.train_step(batch), rtol=1e-4, atol=1e-5)
    short = [tiny_challenge_batch(eager.feature_map, (1, 0), width=2)]  # another B and L
    np.testing.assert_allclose(compiled.predict(short), eager.predict(short), atol=1e-5)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
