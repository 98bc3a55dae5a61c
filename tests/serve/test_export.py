"""An exported model gives the scores of the model it came from, at every shape, and a failed export leaves nothing."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import MultimodalRankModel
from fuxictr_mm.serve import export
from fuxictr_mm.serve.export import check_target, export_onnx, export_safetensors
from fuxictr_mm.serve.onnx_graph import Column
from fuxictr_mm.training.checkpoint import load_weights
from tests import REPOSITORY
from tests.models.zoo import MODELS as REGISTERED
from tests.models.zoo import build
from tests.synthetic import N_ITEMS, tiny_challenge_batch, tiny_feature_map, tiny_item_table

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TRANSFORMER, DIN = "Transformer_DCNv2", "DIN_SE_MHTA"
# Every registered model as it is, and few that have every switch on and off between them: an export takes seconds.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in REGISTERED},
    "two heads": (TRANSFORMER, {"transformer_layers": 1, "num_heads": 2, "first_k_cols": 3}),
    "other switches": (
        TRANSFORMER,
        {"transformer_layers": 1, "target_concat": False, "concat_max_pool": False, "batch_norm": True, "max_len": 6}
        | {"position": "learned", "padding_mask": "as_published", "cross": "low_rank", "alignment": "gated"},
    ),
    "bare": (TRANSFORMER, {"use_transformer": False, "cross": "none", "first_k_cols": 0, "alignment": "mlp"}),
    "similarity": (DIN, {"similarity": ["item_emb", "raw", "clicks"], "similarity_bias": True}),
    "trained vectors": (DIN, {"alignment": "none", "batch_norm": True}),
    "din attention": (DIN, {"attention": "din", "use_se": False, "alignment": "none"}),
}
# lengths of the histories, width that they are padded to; traced are 3 rows of 4
SHAPES = {
    "one row, one item": ((1,), 1),
    "one row, no history": ((0,), 1),
    "shorter than first_k_cols": ((2, 0, 1), 2),
    "longer than traced": ((6, 0, 3, 1, 5), 6),
    "only empty histories": ((0, 0, 0), 3),
    "rows that torch groups": (tuple(i % 7 for i in range(70)), 6),
    "much longer": ((40, 3, 0), 40),
}


def trained_looking(name: str, folder: Path) -> MultimodalRankModel:
    variant, switches = MODELS[name]
    feature_map = tiny_feature_map(folder, second_vector=name == "two heads")
    if name == "similarity":
        feature_map.features["raw"] = {"type": "meta", "source": "item", "pretrain_dim": 6}
        feature_map.features["clicks"] = {**feature_map.features["raw"], "click_vectors": "expected", "click_width": 3}
    if name == "trained vectors":
        del feature_map.features["item_id"]
        feature_map.features["item_emb"] |= {"freeze_emb": False, "vocab_size": N_ITEMS + 1}
    if name == "bare":
        del feature_map.features["likes_level"], feature_map.features["views_level"]
    model = build(variant, folder, feature_map=feature_map, **switches)
    for column in model.embedding_layer.trained_vectors:
        torch.nn.init.normal_(model.embedding_layer.embedding_layer.offsets[column].weight)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MultimodalRankModel, Path]:
    folder = tmp_path_factory.mktemp("export")
    model = trained_looking(request.param, folder)
    export_onnx(model, folder / "model.onnx", {"expid": "tiny", "note": "kept"})
    return model, folder / "model.onnx"


def onnx_scores(file: Path, batch: MultimodalBatch) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    values = {**batch.context, **batch.items, "item_index": batch.item_index, "is_real": batch.is_real_BL}
    (y_pred,) = session.run(None, {entry.name: values[entry.name].numpy() for entry in session.get_inputs()})
    return torch.from_numpy(y_pred)


def torch_scores(model: MultimodalRankModel, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)["y_pred"]


@pytest.mark.parametrize("shape", SHAPES)
def test_onnx_gives_torchs_scores(exported: tuple[MultimodalRankModel, Path], shape: str) -> None:
    model, file = exported
    lengths, width = SHAPES[shape]
    if width > 6 and getattr(getattr(model, "transformer_encoder", None), "position", None) is not None:
        pytest.skip("the model has six positions")
    batch = MultimodalBatch.from_inputs(tiny_challenge_batch(model.feature_map, lengths, width))
    torch.testing.assert_close(onnx_scores(file, batch), torch_scores(model, batch), rtol=0, atol=1e-5)


def test_onnx_takes_one_distinct_item(exported: tuple[MultimodalRankModel, Path]) -> None:
    model, file = exported
    context, _, _ = tiny_challenge_batch(model.feature_map, (5, 5), 5)
    table = tiny_item_table(model.feature_map)
    batch = MultimodalBatch.from_ids(context, torch.full((2, 6), 4), torch.ones(2, 5, dtype=torch.bool), table)
    assert len(batch.items["item_id"]) == 1
    torch.testing.assert_close(onnx_scores(file, batch), torch_scores(model, batch), rtol=0, atol=1e-5)


def test_an_onnx_file_says_what_it_is(exported: tuple[MultimodalRankModel, Path]) -> None:
    model, file = exported
    program = onnx.load(file)
    about = {entry.key: entry.value for entry in program.metadata_props}
    assert (about["model"], about["expid"], about["note"]) == (type(model).__name__, "tiny", "kept")
    assert about["torch"] == torch.__version__ and about["onnx"] == onnx.__version__
    compared = [name for name in model.vectors.compared if name not in model.item_field_dims]
    ids = ["item_id"] if model.embedding_layer.trained_vectors and "item_id" not in model.item_field_dims else []
    columns = [*model.embedding_layer.context_field_dims, *model.item_field_dims, *ids, *compared]
    assert json.loads(about["inputs"]) == [entry.name for entry in program.graph.input]
    assert json.loads(about["inputs"]) == [*columns, "item_index", "is_real"]
    shapes = {
        entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in [*program.graph.input, *program.graph.output]
    }
    assert shapes["item_emb"] == ["U", 7] and shapes["item_tags"] == ["U", 3]
    assert (shapes["item_index"], shapes["is_real"], shapes["y_pred"]) == (["B", "L + 1"], ["B", "L"], ["B", 1])
    assert str(REPOSITORY).encode() not in file.read_bytes() and b"site-packages" not in file.read_bytes()
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]


def test_exporting_leaves_torch_as_it_was(exported: tuple[MultimodalRankModel, Path]) -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    assert not exported[0].training


def test_other_scores_are_no_export(
    exported: tuple[MultimodalRankModel, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is compared with the model: here it holds the weights that the model had before."""
    model, file = exported
    monkeypatch.setattr(export, "trace", lambda *_: onnx.load(file))
    target = tmp_path / "other.onnx"
    target.write_text("an earlier export")
    report = export_onnx(model, tmp_path / "same.onnx")
    assert report.difference < 1e-6 and report.size == (tmp_path / "same.onnx").stat().st_size
    assert 0 < report.scores[0] < report.scores[1] < 1
    assert "item_emb" in report.to_table() and "(B, L + 1)" in report.to_table()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    name = next(n for n, p in reversed(list(model.named_parameters())) if p.shape == (1,))
    with torch.no_grad():
        model.get_parameter(name).add_(0.001)
    try:
        with pytest.raises(
            ConfigError, match=r"other.onnx: not written, because onnxruntime .* differ by \d.*e-0[1-4]"
        ):
            export_onnx(model, target)
    finally:
        model.load_state_dict(before)
    assert target.read_text() == "an earlier export"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.onnx", "same.onnx"]
    with pytest.raises(ConfigError, match=r"opset 20: torch .* gives only opset 18"):
        export_onnx(model, target, opset=20)


def test_nan_is_no_agreement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not float("nan") < export.LARGEST_DIFFERENCE
    monkeypatch.setattr(export, "trace", lambda *_: onnx.ModelProto(opset_import=[onnx.OperatorSetIdProto(version=18)]))
    monkeypatch.setattr(export, "compare", lambda *_: (float("nan"), (0.0, 1.0)))
    with pytest.raises(ConfigError, match="differ by nan"):
        export_onnx(trained_looking(DIN, tmp_path), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_export_is_one_sentence(tmp_path: Path) -> None:
    model = trained_looking(DIN, tmp_path).train()
    model.score = lambda context, target, *_: target[:, :1] if float(target.sum()) > 0 else target[:, 1:2]
    with pytest.raises(ConfigError, match=r"DIN_SE_MHTA of DIN_SE_MHTA cannot be exported to ONNX opset 18 by torch"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert model.training and torch.backends.mha.get_fastpath_enabled()


def test_models_that_are_not_exported_to_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match=r"^Linear: only models of fuxictr_mm .* weights can be exported"):
        export_onnx(torch.nn.Linear(2, 1), file)
    model = trained_looking(DIN, tmp_path)
    monkeypatch.setattr(export, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(ConfigError, match=r"its weights take [\d,]+ bytes and one ONNX file holds at most 1,000"):
        export_onnx(model, file)
    model.device = torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=r"DIN_SE_MHTA is on cuda:0; ONNX export takes a model on the CPU"):
        export_onnx(model, file)
    feature_map = tiny_feature_map(tmp_path)
    feature_map.features["is_real"] = {"type": "categorical", "source": "", "vocab_size": 3}
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"column 'is_real': .* rename the column"):
        export_onnx(build(DIN, tmp_path, feature_map=feature_map), file)
    assert not file.exists()


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_gives_the_install_line(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    sentence = rf"needs {module}; run: pip install 'fuxictr_mm\[onnx\]'"
    with pytest.raises(ConfigError, match=sentence):
        check_target(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=sentence):
        export_onnx(trained_looking(DIN, tmp_path), tmp_path / "model.onnx")
    check_target(tmp_path / "model.safetensors")  # needs none of them


def test_a_torch_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(ConfigError, match=r"needs torch >= 2.6, .* found 2.5.1\+cu124"):
        check_target(tmp_path / "model.onnx")


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model.pt: the suffix says what to export; use .safetensors"):
        check_target(tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"an opset \(18\) belongs to .onnx"):
        check_target(tmp_path / "model.safetensors", 18)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        check_target(tmp_path / "folder.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"its folder cannot be made \("):
        check_target(tmp_path / "file" / "below" / "model.onnx")
    check_target(tmp_path / "new" / "folder" / "model.onnx")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"no permission to write into {tmp_path}"):
        check_target(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_safetensors_round_trip(name: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    model = trained_looking(name, tmp_path)
    batch = tiny_challenge_batch(model.feature_map)
    before = torch_scores(model, batch)
    file = tmp_path / "new" / "weights.safetensors"
    export_safetensors(model, file, {"expid": "tiny"})
    with safe_open(file, "pt") as content:
        assert set(content.keys()) == set(model.state_dict())
        about = content.metadata()
    assert (about["model"], about["expid"], about["format"]) == (type(model).__name__, "tiny", "pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    load_weights(model, file)
    assert torch.equal(torch_scores(model, batch), before)
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_safetensors_of_a_shared_embedding(tmp_path: Path) -> None:
    feature_map = tiny_feature_map(tmp_path)
    feature_map.features["last_item"] = {**feature_map.features["item_id"], "source": "", "share_embedding": "item_id"}
    model = build(DIN, tmp_path, feature_map=feature_map)
    context, items, mask = tiny_challenge_batch(feature_map)
    batch = ({**context, "last_item": torch.tensor([1, 5, 2, 0])}, items, mask)
    before = torch_scores(model, batch)
    export_safetensors(model, tmp_path / "weights.safetensors")
    other = build(DIN, tmp_path, feature_map=feature_map)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(torch_scores(other, batch), before)


def test_weights_have_one_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights.model: weights are exported as .safetensors"):
        export_safetensors(torch.nn.Linear(1, 1), tmp_path / "weights.model")


def test_trial_vectors_are_of_unit_norm() -> None:
    """At large norms every score would be 0 or 1, and a comparison would prove nothing."""
    column = Column("vector", "U", 400, None)
    norms = np.linalg.norm(column.random(50, torch.Generator().manual_seed(0)).numpy(), axis=1)
    assert norms.min() > 0.8 and norms.max() < 1.2


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
