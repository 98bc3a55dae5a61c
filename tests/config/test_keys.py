"""One sentence for every value that an annotation does not admit, wherever it comes from."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from fuxictr_mm.config.keys import (
    KEYS,
    NonNegative,
    Positive,
    PositiveNumber,
    Share,
    Widths,
    annotations_of,
    check_arguments,
    check_value,
)
from fuxictr_mm.errors import ConfigError


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Positive, 1), (NonNegative, 0), (Share, 0), (Share, 0.99), (PositiveNumber, 1), (Widths, [8]),
        (Widths, (8, 4)),
        (Positive | None, None), (float | str | None, "l2(0.1)"), (Literal["a", "b"], "b"), (Any, int),
        (bool, False),
    ],
)  # fmt: skip
def test_what_is_admitted_comes_back(annotation: Any, value: Any) -> None:
    assert check_value("key 'x'", annotation, value) == value


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (Positive, 0, "found 0; at least 1 is expected."),
        (Positive, True, "found True; a whole number is expected."),
        (Positive, 2.0, "found 2.0; a whole number is expected."),
        (Share, 1, "found 1; less than 1 is expected."),
        (float, "1e-3", "YAML reads 1e-3 as text; write it with a point, e.g. 1.0e-3; a number is expected."),
        (float | str | None, [1], "found [1]; a number or text is expected."),
        (Literal["a", "b"], "c", "found 'c'; one of 'a' or 'b' is expected."),
        (Widths, [8, 0], "found [8, 0]; at least 1 at place 1 is expected."),
        (Widths, [], "found []; a list of at least 1 is expected."),
        (Widths, 8, "found 8; a list is expected."),
        (Sequence[str], "abc", "found 'abc'; a list, not text, is expected."),
        (bool, "yes", "found 'yes'; True or False is expected."),
        (PositiveNumber, float("inf"), "found inf; a finite number is expected."),
        (dict[str, Positive], {"text": 0}, "found {'text': 0}; at least 1 at 'text' is expected."),
    ],
)
def test_what_is_not_admitted_is_one_sentence(annotation: Any, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'key x: {sentence}')}$"):
        check_value("key x", annotation, value)


def test_numbers_of_numpy_are_numbers() -> None:
    assert check_value("x", Positive, np.int64(5)) == 5 and check_value("x", Share, np.float32(0.5)) == 0.5
    with pytest.raises(ConfigError, match=r"at least 1 is expected"):
        check_value("x", Positive, np.int64(0))


def test_a_constructor_refuses_before_it_runs() -> None:
    class Layer:
        @check_arguments
        def __init__(self, width: Positive, rate: Share = 0.0, other: Any = None, **kwargs: Any) -> None:
            self.width = width

    assert Layer(3, rate=0.5, unknown="kept").width == 3
    assert annotations_of(Layer.__init__) == {"width": Positive, "rate": Share, "other": Any}
    for arguments, options in (((0,), {}), ((1,), {"rate": 1.5})):
        with pytest.raises(ConfigError, match=r"^key '(width|rate)': found"):
            Layer(*arguments, **options)


def test_a_name_that_only_type_checkers_know_is_no_obstacle() -> None:
    def build(width: "OnlyForTypeCheckers") -> None:  # type: ignore[name-defined] # noqa: F821
        return width

    assert annotations_of(build) == {"width": Any}


def test_what_is_known_of_a_key_agrees_with_itself() -> None:
    for name, key in KEYS.items():
        assert key.path or not key.content, name  # what has content is a file
        assert not (key.content and not key.machine), name  # its place decides nothing, its bytes do
        assert not (key.required and key.fixed) or key.path, name  # what a study decides is a place
