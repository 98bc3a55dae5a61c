"""What is known of a key: the aliases that annotations are written with, and the one sentence about a wrong value.

Model keys are declared where they are read, by the annotations of the constructors; pydantic checks both those and the
keys of a dataset or a run, so a value is refused in the same words wherever it comes from.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from fuxictr_mm.errors import ConfigError

__all__ = [
    "Activations",
    "FileName",
    "KEYS",
    "Key",
    "NonNegative",
    "NonNegativeNumber",
    "Number",
    "Positive",
    "PositiveNumber",
    "Rate",
    "Share",
    "Text",
    "Widths",
    "annotations_of",
    "check_arguments",
    "check_value",
    "nearest",
]

MOST = 2**31 - 1  # counts and sizes: numpy, torch and Arrow all hold it, and no training needs more
Positive = Annotated[int, Field(ge=1, le=MOST)]
NonNegative = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Gpu = Annotated[int, Field(ge=-1, le=MOST)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NonNegativeNumber = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A learning rate, a regularizer or the spread of first weights: a thousand times what anybody uses, and a typing error
# beyond.
Rate = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]  # a dropout rate, or a part of the items
Widths = Annotated[Sequence[Positive], Field(min_length=1)]  # hidden units
Text = Annotated[str, Field(min_length=1)]
Activations = Text | Annotated[list[Text], Field(min_length=1)]  # of all hidden layers, or of each

_SIZE = r" *\+?(\d{1,2}\.?\d*|\.\d+)([eE]-\d{1,2})? *"
# FuxiCTR's forms: a number for L2, or text.
Regularizer = Rate | Annotated[str, Field(pattern=rf"^(l1|l2)\({_SIZE}\)$|^l1_l2\({_SIZE},{_SIZE}\)$")] | None


def _file_name(name: str) -> str:
    if not name.strip() or ".." in name or re.search(r"[/\\]", name) or not name.isprintable():
        raise PydanticCustomError("file_name", "a name that files can have, without slashes, '..' and control signs,")
    if len(name.encode(errors="replace")) > 150:  # a file system takes 255 bytes, and suffixes and seeds follow
        raise PydanticCustomError("file_name", "a name of at most 150 bytes")
    return name


# Experiments and data sets give folders and files their names.
FileName = Annotated[str, AfterValidator(_file_name)]

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
_TYPE_NAME = re.compile(r"(bool|int|float|str|none|constrained-|function-|list|dict|literal|nullable)")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def nearest(name: Any, known: Any) -> str:
    """The end of a refusal: known names that are like ``name``, or else all of them."""
    close = get_close_matches(str(name), [str(key) for key in known], n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(sorted(map(str, known)))}"


def check_value(where: str, annotation: Any, value: Any) -> Any:
    """Return ``value`` if the annotation admits it; whole numbers pass as numbers, and text never as a number.

    Args:
        where: what the sentence begins with, e.g. ``"key 'epochs' of experiment x"``.
        annotation: a type, with pydantic's bounds where it has some.
        value: as YAML gave it.

    Raises:
        ConfigError: what is found and what is expected.
    """
    # A script may count with numpy; what it counts is a plain number all the same.
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        return _adapter(annotation).validate_python(plain)
    except ValidationError as err:
        found = f"found {_short(value)}"
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            found = f"YAML reads {value} as text; write it with a point, e.g. 1.0e-3"
        raise ConfigError(f"{where}: {found}; {_expected(err)}.") from err


def _short(value: Any) -> str:
    """As the user wrote it, as far as a sentence can hold it."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _expected(err: ValidationError) -> str:
    # A union fails once per member; each says what it would have taken.
    wishes = list(dict.fromkeys(_wish(entry) for entry in err.errors(include_url=False)))
    return " or ".join(wishes) + " is expected"


def _wish(entry: Mapping[str, Any]) -> str:
    """One of pydantic's errors as the end of a sentence, with the place inside a list where it has one."""
    bounds = entry.get("ctx", {})
    words = {
        "literal_error": f"one of {bounds.get('expected', '')}",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "True or False",
        "string_type": "text",
        "string_pattern_mismatch": "l1(x), l2(x) or l1_l2(x,y)",
        "string_too_short": "text that is not empty",
        "none_required": "null",
        "is_type": "a class, which no YAML can name,",
        "greater_than_equal": f"at least {bounds.get('ge', 0):.15g}",
        "greater_than": f"more than {bounds.get('gt', 0):.15g}",
        "less_than_equal": f"at most {bounds.get('le', 0):.15g}",
        "less_than": f"less than {bounds.get('lt', 0):.15g}",
        "too_short": f"a list of at least {bounds.get('min_length')}",
        "list_type": "a list",
        "is_instance_of": f"a {bounds.get('class', 'value')}".replace("Sequence", "list"),
        "dict_type": "a mapping",
        "mapping_type": "a mapping",
        "int_parsing_size": f"at most {MOST}",
        "sequence_str": "a list, not text,",
    }
    wish = words.get(entry["type"], entry["msg"][:1].lower() + entry["msg"][1:])
    # Members of a union stand in the place too, by their names; a list's is a number, a mapping's what the user wrote.
    at = [place for place in entry["loc"][:1] if not _TYPE_NAME.match(str(place))]
    return f"{wish} at {'place ' if isinstance(at[0], int) else ''}{at[0]!r}" if at else wish


@functools.lru_cache(maxsize=1024)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=_STRICT)


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(annotation)
    except TypeError:  # an annotation with a list in it has no hash
        return TypeAdapter(annotation, config=_STRICT)


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> annotation with its bounds, ``Any`` where there is none; ``self`` and ``**kwargs`` left out."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # of a user's model: imported for type checkers only, so nobody can look them up here
        hints = {}
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"]
    return {name: hints.get(name, Any) for name in named}


def check_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a constructor refuse, before it runs, what its annotations do not admit.

    So that a model built by a script of the user's own is checked as one that the runner builds.
    """
    signature, hints = inspect.signature(function), annotations_of(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind_partial(*args, **kwargs).arguments.items():
            if name in hints and hints[name] is not Any:
                check_value(f"key {name!r}", hints[name], value)
        return function(*args, **kwargs)

    return checked


@dataclass(frozen=True)
class Key:
    """One key of an experiment or of a dataset: everything that is known of it, once.

    Attributes:
        type: annotation that its value must keep.
        reader: who reads it.
        required: an experiment without it is refused.
        dataset: it belongs to the dataset's half of the YAML.
        path: relative paths start at the repository, or at the user's own config folder.
        content: it names a file whose bytes decide what a run computes.
        machine: it says where or how a run is carried out or measured, and not what it computes.
        fixed: a study or a sweep decides it; a variant must not.
    """

    type: Any
    reader: str
    required: bool = False
    dataset: bool = False
    path: bool = False
    content: bool = False
    machine: bool = False
    fixed: bool = False


def _file(reader: str) -> Key:
    return Key(Text | None, reader, dataset=True, path=True, content=True, machine=True)


# Models and fit declare further keys by their annotations. Those here are read by nobody's signature of ours or by the
# loader's, which config does not import (a test compares the two), or need to be known of beyond their type.
KEYS: dict[str, Key] = {
    "model": Key(Text, "runner", required=True),
    "model_id": Key(FileName, "runner", fixed=True),
    "dataset_id": Key(FileName, "runner", required=True),
    "model_root": Key(Text, "FuxiCTR", required=True, path=True, machine=True, fixed=True),
    "seed": Key(Seed, "runner", required=True),
    "gpu": Key(Gpu, "FuxiCTR", machine=True, fixed=True),
    "verbose": Key(NonNegative, "FuxiCTR", required=True, machine=True),
    "debug_mode": Key(bool, "FuxiCTR", machine=True),
    "num_workers": Key(NonNegative, "loader", machine=True),
    "data_loader": Key(type | None, "FuxiCTR", machine=True),  # a class, so it comes from scripts only
    "resume": Key(bool, "fit", machine=True, fixed=True),
    "checkpoint_steps": Key(Positive | None, "fit", machine=True),
    "weights": Key(Text | None, "runner", path=True, content=True, machine=True),
    "metrics": Key(Annotated[list[Text], Field(min_length=1)], "FuxiCTR", required=True, machine=True),
    "monitor": Key(Text | Annotated[dict[str, Number], Field(min_length=1)], "FuxiCTR"),
    "monitor_mode": Key(Literal["max", "min"], "FuxiCTR"),
    "early_stop_patience": Key(Positive, "FuxiCTR"),
    "eval_steps": Key(Positive | None, "FuxiCTR"),
    "save_best_only": Key(bool, "FuxiCTR"),
    "reduce_lr_on_plateau": Key(bool, "FuxiCTR"),
    "task": Key(Literal["binary_classification"], "FuxiCTR"),
    "loss": Key(Literal["binary_crossentropy", "binary_cross_entropy", "bce"], "FuxiCTR", required=True),
    "optimizer": Key(Text, "FuxiCTR", required=True),
    "learning_rate": Key(Rate, "model"),
    "embedding_regularizer": Key(Regularizer, "FuxiCTR"),
    "net_regularizer": Key(Regularizer, "FuxiCTR"),
    "max_gradient_norm": Key(PositiveNumber, "fit"),
    "epochs": Key(Positive, "fit", required=True),
    "batch_size": Key(Positive, "loader", required=True),
    "shuffle": Key(bool, "loader"),
    "max_len": Key(Positive, "loader"),
    "trim": Key(bool, "loader"),
    "stream": Key(bool, "loader"),
    "length_buckets": Key(bool, "loader"),
    "use_features": Key(Annotated[list[Text], Field(min_length=1)] | None, "FuxiCTR"),
    "feature_specs": Key(list[dict[str, Any]] | None, "FuxiCTR"),
    "data_root": Key(Text, "FuxiCTR", required=True, dataset=True, path=True, machine=True, fixed=True),
    "data_format": Key(Literal["parquet"], "FuxiCTR", dataset=True),
    "train_data": replace(_file("loader"), type=Text, required=True),
    "valid_data": _file("loader"),
    "test_data": _file("loader"),
    "item_info": _file("processor"),
    "item_feature": _file("processor"),
    "modality_data": replace(_file("processor"), type=dict[Text, Text] | None),
    "item_col": Key(Text, "loader", dataset=True),
    "history_col": Key(Text, "loader", dataset=True),
    "group_id": Key(Text | None, "FuxiCTR", dataset=True),
    "feature_cols": Key(list[dict[str, Any]], "processor", required=True, dataset=True),
    "label_col": Key(dict[str, Any] | list[dict[str, Any]], "processor", required=True, dataset=True),
    "rebuild_dataset": Key(bool, "processor", dataset=True),
    "min_categr_count": Key(Positive, "FuxiCTR", dataset=True),
    "data_block_size": Key(Annotated[int, Field(ge=-1, le=MOST)], "FuxiCTR", dataset=True),
    "pickle_feature_encoder": Key(bool, "FuxiCTR", dataset=True),
}
