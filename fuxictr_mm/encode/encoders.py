"""The models that turn texts or pictures into vectors, all called in one way.

``sentence-transformers/NAME`` or a local folder of such a model (texts), ``timm/NAME`` (pictures), ``open_clip/NAME``
or ``open_clip/NAME:WEIGHTS`` (both), or ``module:function``: any callable that takes a list of texts, or of pictures
as RGB ``PIL.Image``, and returns one row of numbers for each.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fuxictr_mm.errors import ConfigError, needs

__all__ = ["Encoder", "Kind", "as_vectors", "load_encoder"]

Kind = Literal["text", "image"]
FORMS = "sentence-transformers/NAME, timm/NAME, open_clip/NAME, a local folder, or module:function"


@dataclass(frozen=True)
class Encoder:
    """A model, ready to encode.

    Attributes:
        model: as it was named.
        revision: digest of its weights, or of the source of a function.
        encode: a list of n inputs -> (n, width) numbers.
    """

    model: str
    revision: str
    encode: Callable[[list[Any]], Any]


def load_encoder(model: str, kind: Kind) -> Encoder:
    """Load a model by its name; on the GPU if there is one.

    Raises:
        ConfigError: the name has no such form, its library is not installed, or it cannot be loaded.
    """
    source, _, name = model.partition("/")
    loaders = {
        ("sentence-transformers", "text"): _sentence_transformer,
        ("timm", "image"): _timm,
        ("open_clip", "text"): _open_clip_text,
        ("open_clip", "image"): _open_clip_image,
    }
    if Path(model).is_dir():
        if kind == "image":
            raise ConfigError(
                f"{model}: a folder is a sentence-transformers model, which encodes texts; found for images."
            )
        # By its last name: the folder may be moved, and its revision tells which it is.
        return replace(_loaded(model, _sentence_transformer, model), model=Path(model).resolve().name)
    if (source, kind) in loaders:
        return _loaded(model, loaders[source, kind], model if source == "sentence-transformers" else name)
    if ":" in model and "/" not in model:
        return _function(model)
    raise ConfigError(f"{model!r} is no model for {kind}s; expected {FORMS} that encodes them.")


def _loaded(model: str, load: Callable[[str], tuple[Any, Callable[[list[Any]], Any]]], name: str) -> Encoder:
    try:
        network, encode = load(name)
    except ConfigError:
        raise
    except Exception as err:  # each library has errors of its own for a name it does not know or cannot fetch
        told = str(err).strip().splitlines() or [type(err).__name__]
        raise ConfigError(f"{model!r} cannot be loaded ({told[0]}); check the name, or name a local folder.") from err
    # Of the parameters alone and without their names, which other versions of a library change.
    parts = sorted(hashlib.blake2b(one.detach().float().cpu().numpy()).digest() for one in network.parameters())
    return Encoder(model, hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest(), encode)


def _device() -> str:
    return "cuda" if needs("torch", "encode").cuda.is_available() else "cpu"


def _sentence_transformer(name: str) -> tuple[Any, Callable[[list[Any]], Any]]:
    network = needs("sentence_transformers", "encode").SentenceTransformer(name, device=_device())

    def encode(texts: list[str]) -> Any:
        return network.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)

    return network, encode


def _timm(name: str) -> tuple[Any, Callable[[list[Any]], Any]]:
    timm = needs("timm", "encode")
    network = timm.create_model(name, pretrained=True, num_classes=0).eval().to(_device())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return network, _of_tensors(network, transform)


def _open_clip(name: str) -> tuple[Any, Any, Any]:
    open_clip = needs("open_clip", "encode")
    architecture, _, weights = name.partition(":")
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if not (weights or known):
        raise ConfigError(f"open_clip knows no weights of {architecture!r}; see open_clip.list_pretrained().")
    network, _, transform = open_clip.create_model_and_transforms(
        architecture, pretrained=weights or known[0], device=_device()
    )
    return network.eval(), transform, open_clip.get_tokenizer(architecture)


def _open_clip_image(name: str) -> tuple[Any, Callable[[list[Any]], Any]]:
    network, transform, _ = _open_clip(name)
    return network, _of_tensors(network.encode_image, transform)


def _open_clip_text(name: str) -> tuple[Any, Callable[[list[Any]], Any]]:
    torch = needs("torch", "encode")
    network, _, tokenize = _open_clip(name)

    def encode(texts: list[str]) -> Any:
        with torch.inference_mode():
            return network.encode_text(tokenize(texts).to(_device())).float().cpu().numpy()

    return network, encode


def _of_tensors(forward: Callable[[Any], Any], transform: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    torch = needs("torch", "encode")

    def encode(pictures: list[Any]) -> Any:
        with torch.inference_mode():
            return forward(torch.stack([transform(one) for one in pictures]).to(_device())).float().cpu().numpy()

    return encode


def _function(model: str) -> Encoder:
    module, _, name = model.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # an installed command does not look in the current folder
    try:
        function = getattr(import_module(module), name)
        source = inspect.getsource(function)
    except (ImportError, AttributeError, TypeError, OSError) as err:
        raise ConfigError(
            f"{model!r}: no such function ({err}); expected module:function, importable from here."
        ) from err
    return Encoder(model, hashlib.blake2b(source.encode(), digest_size=8).hexdigest(), function)


def as_vectors(values: Any, n: int, model: str) -> np.ndarray:
    """What an encoder gave, as (n, width) float32.

    Raises:
        ConfigError: it has another shape, or numbers that are not finite.
    """
    vectors = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if vectors.ndim != 2 or len(vectors) != n or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
        raise ConfigError(
            f"{model}: gave {vectors.dtype} of shape {vectors.shape} for {n} inputs; ({n}, width) is expected."
        )
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ConfigError(f"{model}: gave a vector with NaN or inf for one of {n} inputs; check the model.")
    return vectors
