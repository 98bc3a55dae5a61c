"""What differs between releases of the host, whichever is installed."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest

from fuxictr_mm import compat
from fuxictr_mm.compat import find_model, host_model_names, validate_data
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.pca import ModalityPCA


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
