"""Where our own YAML files lie and where paths in them begin, in a checkout and with an installed wheel."""

from pathlib import Path

__all__ = ["CHECKOUT", "SHIPPED", "home", "of_results"]

_ABOVE = Path(__file__).resolve().parents[2]
# The repository, if this package is used from there; beside a wheel's package lie other packages.
CHECKOUT = _ABOVE if (_ABOVE / "setup.py").is_file() and (_ABOVE / "dataset_config").is_dir() else None
# The folder of model_zoo/, dataset_config/, experiments/studies/ and experiments/tuner_config/.
SHIPPED = CHECKOUT or Path(__file__).resolve().parents[1] / "shipped"


def home() -> Path:
    """Where relative paths of our own YAML files begin: the repository, and with a wheel the current folder."""
    return CHECKOUT or Path.cwd()


def of_results() -> Path:
    """Where figures and tables go unless told otherwise."""
    return home() / "experiments" / "results" if CHECKOUT else home() / "results"
