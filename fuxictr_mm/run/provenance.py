"""Where a figure comes from: the commit and the machine."""

import os
import platform
import subprocess

import torch

from fuxictr_mm.config.experiment import REPOSITORY

__all__ = ["current_commit", "machine"]


def current_commit() -> str:
    """The short name of the checked-out commit, ``+`` behind it if tracked files differ; ``unknown`` outside git."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def machine() -> str:
    """Cores, processor, torch with its threads, and Python; the GPU where there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}{gpu}, torch {torch.__version__} with {torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}"
    )
