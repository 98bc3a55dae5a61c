"""A model whose trainings show what goes on beside them; spawned workers find it by its module."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from fuxictr_mm.models.din_se_mhta import DIN_SE_MHTA

__all__ = ["Dying", "Meeting"]


class Meeting(DIN_SE_MHTA):
    """Begins to train only when ``MEET`` other trainings have begun beside it."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.checkpoint).parent
        mine = folder / f"{self.model_id}.begun"
        mine.write_text(str(os.getpid()))
        deadline = time.monotonic() + 120
        while len(list(folder.glob("*.begun"))) < int(os.environ.get("MEET", "1")):
            if time.monotonic() > deadline:
                raise TimeoutError("nobody else has begun")
            time.sleep(0.02)
        super().fit(*args, **kwargs)


class Dying(DIN_SE_MHTA):
    """Takes its process down, as a machine short of memory does."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        assert multiprocessing.parent_process() is not None, "only a worker may die"
        os.kill(os.getpid(), signal.SIGKILL)
