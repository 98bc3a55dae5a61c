"""Activations of an MLP as a config names them: one for all hidden layers, or a list with one for each."""

from collections.abc import Sequence

from fuxictr.pytorch.torch_utils import get_activation

from fuxictr_mm.config.keys import Activations
from fuxictr_mm.errors import ConfigError

__all__ = ["checked_activations"]


def checked_activations(key: str, activations: Activations, hidden_units: Sequence[int]) -> Activations:
    """Return ``activations`` if the host can build them; it would end in an AssertionError or an AttributeError.

    Args:
        key: that they come from.
        activations: names of the host's or of ``torch.nn``.
        hidden_units: width of each hidden layer.

    Raises:
        ConfigError: an unknown name, or a list of another length than ``hidden_units``.
    """
    names = [activations] if isinstance(activations, str) else activations
    if names is activations and len(names) != len(hidden_units):
        raise ConfigError(
            f"key {key!r}: found {len(names)} activations for {len(hidden_units)} hidden layers; give one for each, or "
            "one name for all."
        )
    for name in names:
        try:
            get_activation(name, 1)
        except (AttributeError, TypeError) as err:
            raise ConfigError(
                f"key {key!r}: found {name!r}; the name of an activation is expected, e.g. ReLU, Tanh, Dice or another "
                "of torch.nn."
            ) from err
    return activations
