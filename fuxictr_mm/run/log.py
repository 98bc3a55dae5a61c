"""The log of a run: FuxiCTR's file and form, but what an earlier run wrote goes only when this one begins to train."""

import logging
import os
import sys
from pathlib import Path

from fuxictr_mm.files import naming

__all__ = ["RunLog"]

LINE = "%(asctime)s P%(process)d %(levelname)s %(message)s"


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """End the run as soon as its log cannot be written, by the system's own error."""
        err = sys.exc_info()[1]
        if isinstance(err, OSError):
            raise OSError(err.errno, err.strerror, self.baseFilename) from err
        super().handleError(record)


class RunLog:
    """Lets the root logger write to the end of a file and to the terminal, as FuxiCTR's ``set_logger`` does.

    The handlers stay behind, as FuxiCTR's do, so that the error that ends a run is logged too.

    Args:
        file: the log; its folder is made.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._start = file.stat().st_size if file.exists() else 0
        handlers: list[logging.Handler] = [
            _LogFile(file, mode="a", encoding="utf-8"),
            logging.StreamHandler(),
        ]
        logging.basicConfig(level=logging.INFO, format=LINE, handlers=handlers, force=True)

    def begin_anew(self) -> None:
        """Drop what earlier runs wrote."""
        with naming(self._file):
            ours = self._file.read_bytes()[self._start :]
            os.truncate(self._file, 0)  # the handler appends, so it goes on behind these lines
            with open(self._file, "ab") as stream:
                stream.write(ours)
        self._start = 0
