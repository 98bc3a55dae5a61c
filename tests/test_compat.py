"""Both forms of the host, whichever is installed."""

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuxictr_mm import compat
from fuxictr_mm.compat import find_model, host_loaders, host_model_names, validate_data
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.pca import ModalityPCA

PARAMS: dict[str, Any] = {"train_data": "a", "valid_data": "b", "test_data": None, "batch_size": 7}


def function_form(feature_map: Any, stage: str = "train", **params: Any) -> tuple[Any, Any, Any]:
    """As in the wheel 2.3.10."""
    return (feature_map, stage, params), params["valid_data"], params["test_data"]


class ClassForm:
    """As in 2.3.7 and 2.3.9."""

    def __init__(self, feature_map: Any, stage: str = "train", **params: Any) -> None:
        self.loaders = function_form(feature_map, stage, **params)

    def make_iterator(self) -> tuple[Any, Any, Any]:
        return self.loaders


@pytest.mark.parametrize("form", [function_form, ClassForm])
def test_loaders_of_both_forms(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "RankDataLoader", form)
    assert host_loaders("map", PARAMS) == (("map", "both", PARAMS), "b", None)


def test_the_hosts_own_form_gives_three_loaders() -> None:
    made: list[tuple[str, int]] = []

    class Loader:
        num_samples = num_blocks = 1

        def __init__(self, feature_map: Any, data_path: str, split: str, batch_size: int, **kwargs: Any) -> None:
            made.append((f"{split}: {data_path}", batch_size))

    train, valid, test = host_loaders(None, {**PARAMS, "data_loader": Loader})
    assert isinstance(train, Loader) and isinstance(valid, Loader) and test is None
    assert made == [("train: a", 7), ("valid: b", 7)]


def host_zoo(*names: str) -> ModuleType:
    zoo = ModuleType("model_zoo.LongCTR")
    for name in names:
        setattr(zoo, name, type(name, (), {}))
    return zoo


def test_a_registered_model_goes_before_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, mine = host_zoo("DIN", "SIM"), host_zoo("DIN")
    monkeypatch.setattr(compat, "_host_zoo", lambda: theirs)
    assert find_model(mine, "DIN") is mine.DIN
    assert find_model(mine, "SIM") is theirs.SIM
    assert host_model_names() == ["DIN", "SIM"]
    mine.helper = "not a class"
    with pytest.raises(ConfigError, match=r"^model: 'helper' is not a registered model; found \['DIN', 'SIM'\]\.$"):
        find_model(mine, "helper")


def test_the_installed_hosts_models_are_found() -> None:
    carries_models = importlib.util.find_spec("model_zoo.LongCTR") is not None
    assert ("TransAct" in host_model_names()) == carries_models


def test_a_host_without_models_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    assert host_model_names() == []
    sentence = r"model: 'TransAct' is not a registered model; found \['DIN'\] \(fuxictr 2\.\S+ carries no models for"
    with pytest.raises(ConfigError, match=sentence):
        find_model(host_zoo("DIN"), "TransAct")


def test_what_a_host_model_itself_lacks_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'torch_scatter'", name="torch_scatter")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="torch_scatter"):
        host_model_names()


def test_validate_data_sets_and_checks_the_width() -> None:
    estimator = ModalityPCA()
    rows = validate_data(estimator, [[1, 2], [3, 4]], dtype=(np.float64, np.float32), reset=True)
    assert rows.dtype == np.float64 and estimator.n_features_in_ == 2
    with pytest.raises(ValueError, match="X has 3 features, but ModalityPCA is expecting 2 features"):
        validate_data(estimator, np.ones((1, 3)), reset=False)
    with pytest.raises(ValueError, match="contains NaN"):
        validate_data(estimator, np.full((1, 2), np.nan), reset=False)
