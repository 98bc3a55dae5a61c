"""Putting our names where the host looks."""

from types import ModuleType

import pytest
from fuxictr.pytorch import layers as host_layers

import fuxictr_mm
from fuxictr_mm.compat import find_model, host_model_names
from fuxictr_mm.errors import ConfigError


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
