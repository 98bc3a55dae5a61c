"""Where a figure comes from: the version or commit of this package, and the machine."""

import os
import platform
import subprocess
from importlib.metadata import version

import torch

from fuxictr_mm.config.places import CHECKOUT

__all__ = ["current_commit", "machine"]


def current_commit() -> str:
    """The commit of an editable checkout, short, ``+`` behind it if tracked files differ; else the package's version.

    A package that was installed from a wheel may lie inside another project's repository, whose commit says nothing.
    """
    installed = f"version {version('fuxictr_mm')}"
    if CHECKOUT is None or not (CHECKOUT / ".git").exists():
        return installed
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return installed
    return run.stdout.strip()


def machine() -> str:
    """Cores, processor, torch with its threads, and Python; the GPU where there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}{gpu}, torch {torch.__version__} with {torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}"
    )
