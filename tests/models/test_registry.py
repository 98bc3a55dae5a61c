"""Putting our names where the host looks, and what makes a class a model that is put there."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fuxictr.pytorch import layers as host_layers

import fuxictr_mm
from fuxictr_mm.compat import find_model, host_model_names
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import DIN_SE_MHTA, MultimodalRankModel
from fuxictr_mm.models.registry import registered_models
from tests.synthetic import MODEL_KWARGS, tiny_feature_map

REPOSITORY = Path(__file__).resolve().parents[2]
# A whole model: what its one file would hold.
TOY = '''
from typing import Any, Literal

import torch
from fuxictr.pytorch.layers import MLP_Block

from fuxictr_mm.config.keys import NonNegativeNumber, Widths
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.base import MultimodalRankModel


class Step(MultimodalRankModel):
    """On the way to a model: no score."""


class Toy(Step):
    def __init__(
        self,
        feature_map: Any,
        model_id: str = "Toy",
        hidden_units: Widths = (64,),
        pooling: Literal["mean", "sum"] = "mean",
        learning_rate: NonNegativeNumber = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, model_id=model_id, **kwargs)
        if self.similarity is not None and self.similarity.weight_M is not None:
            raise ConfigError("similarity_bias: True needs an attention; Toy has none.")
        self.pooling = pooling
        width = self.context_dim + 2 * self.item_dim
        self.mlp = MLP_Block(
            input_dim=width, output_dim=1, hidden_units=list(hidden_units), hidden_activations="Tanh",
            output_activation=self.output_activation,
        )
        self.finish(kwargs["optimizer"], kwargs["loss"], learning_rate)

    def score(self, context_BC, target_BD, history_BLD, is_real_BL, bias_BL=None):
        pooled_BD = history_BLD.sum(dim=1)
        if self.pooling == "mean":
            pooled_BD = pooled_BD / is_real_BL.sum(dim=1, keepdim=True).clamp(min=1)
        return self.head(self.mlp, torch.cat([context_BC, target_BD, pooled_BD], dim=-1))
'''


def with_toy(folder: Path, code: str) -> str:
    """Run code in a process whose fuxictr_mm/models/ holds one more file; its output."""
    (folder / "toy.py").write_text(TOY)
    start = f"import fuxictr_mm.models; fuxictr_mm.models.__path__.append({str(folder)!r})\n"
    command = [sys.executable, "-c", start + code]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    return result.stdout + result.stderr


def test_register_twice_is_harmless() -> None:
    model_zoo = ModuleType("model_zoo")
    fuxictr_mm.register(model_zoo)
    fuxictr_mm.register(model_zoo)
    assert model_zoo.Transformer_DCNv2 is fuxictr_mm.Transformer_DCNv2
    assert model_zoo.DIN_SE_MHTA is fuxictr_mm.DIN_SE_MHTA
    assert host_layers.GatedAlignment(2, 3).out_dim == 3


def test_a_taken_name_is_an_error_and_changes_nothing() -> None:
    model_zoo = ModuleType("model_zoo")
    model_zoo.Transformer_DCNv2 = dict
    with pytest.raises(ConfigError, match=r"model_zoo.Transformer_DCNv2 is already"):
        fuxictr_mm.register(model_zoo)
    assert not hasattr(model_zoo, "DIN_SE_MHTA")


def test_models_are_found_as_the_host_finds_them() -> None:
    model_zoo = ModuleType("model_zoo")
    fuxictr_mm.register(model_zoo)
    assert find_model(model_zoo, "DIN_SE_MHTA") is fuxictr_mm.DIN_SE_MHTA
    for name in host_model_names():
        assert find_model(model_zoo, name).__module__.startswith("model_zoo.LongCTR")
    with pytest.raises(ConfigError, match=r"model: 'DINN' is not a registered model; found \[.*'DIN_SE_MHTA'"):
        find_model(model_zoo, "DINN")


def test_a_model_is_one_file(tmp_path: Path) -> None:
    """Registered, public, in the contract suite with a variant per switch, and named by the golden suite."""
    found = with_toy(
        tmp_path,
        "from types import ModuleType\n"
        "zoo = ModuleType('zoo'); fuxictr_mm.register(zoo)\n"
        "print('names', sorted(vars(zoo)), fuxictr_mm.Toy is zoo.Toy, hasattr(zoo, 'Step'))\n"
        "import pytest\n"
        "files = ['tests/models/test_contracts.py', 'tests/models/test_golden.py']\n"
        "pytest.main([*files, '-q', '-k', 'Toy', '-p', 'no:cacheprovider', '-rA', '--no-header'])\n",
    )
    assert "'DIN_SE_MHTA', 'Toy', 'Transformer_DCNv2'" in found and "True False\n" in found, found
    for variant in ("Toy", "Toy alignment=none", "Toy pooling=sum"):
        assert f"PASSED tests/models/test_contracts.py::test_padding_contents_change_nothing[{variant}]" in found
        assert f"no loss of {variant!r} is stored: python -m tests.models.test_golden" in found
    failed = [line for line in found.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert failed and all("test_golden.py::test_three_steps" in line for line in failed), found


def test_what_is_no_model_of_its_own() -> None:
    """A class without a score, one below a model, and one that a function makes for itself."""

    class InsideATest(MultimodalRankModel):
        def score(self, *_: Any) -> torch.Tensor:
            return torch.zeros(1, 1)

    assert sorted(registered_models()) == ["DIN_SE_MHTA", "Transformer_DCNv2"]
    assert Below in DIN_SE_MHTA.__subclasses__() and InsideATest in MultimodalRankModel.__subclasses__()


class Below(DIN_SE_MHTA):
    """Known to Python, and no model of its own."""

    def __init__(self, feature_map: Any, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(feature_map, **kwargs)


def test_a_users_model_is_registered_and_its_constructor_checked(tmp_path: Path) -> None:
    found = with_toy(
        tmp_path,
        "exec(compile(open({!r}).read().replace('class Toy', 'class Mine'), 'mine.py', 'exec'))\n"
        "from types import ModuleType\n"
        "zoo = ModuleType('zoo'); fuxictr_mm.register(zoo); print(zoo.Mine is Mine, fuxictr_mm.Mine is Mine)\n"
        "first = Mine\n"
        "class Mine(first):\n"
        "    score = first.score\n"
        "print(fuxictr_mm.models.registry.registered_models()['Mine'] is Mine)\n"
        "class Toy(Mine):\n"
        "    score = first.score\n"
        "try: fuxictr_mm.register(zoo)\n"
        "except fuxictr_mm.ConfigError as err: print(err)\n".format(str(tmp_path / "toy.py")),
    )
    assert found.startswith("True True\nTrue\nmodel 'Toy' is defined in "), found
    assert "__main__" in found and "fuxictr_mm.models.toy" in found and "rename one of them." in found
    with pytest.raises(ConfigError, match="key 'depth': found '2'; a whole number is expected"):
        Below(tiny_feature_map(tmp_path), depth="2", model_root=str(tmp_path), **MODEL_KWARGS)


def test_names_that_are_no_model() -> None:
    for name in ("DINN", "nothing", "Step"):
        with pytest.raises(AttributeError, match=f"module 'fuxictr_mm' has no attribute '{name}'"):
            getattr(fuxictr_mm, name)
