"""Ctrl-C and SIGTERM during a training: they wait for a moment at which its state can be saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["SignalInEvaluationError", "Signals", "UntilHeard"]


class SignalInEvaluationError(Exception):
    """A signal came between two batches of an evaluation, which can be begun anew."""


class Signals:
    """Remembers the first signal of a training.

    Attributes:
        heard: its number; ``None``: none has come.
    """

    def __init__(self) -> None:
        self.heard: int | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM wait for the end of a step; the second one acts at once.

        What was ignored, as Ctrl-C is in a job behind ``&``, stays ignored. Outside the main thread nothing is kept.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def keep(number: int, _: Any) -> None:
            self.heard = number
            restore()
            # Not by logging: the signal may have come while it was writing, and streams may not be entered twice.
            os.write(2, b"\nSignal received: the state is saved after this step.\n")

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        listened = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, keep) for number in listened}
        try:
            yield
        finally:
            restore()


class UntilHeard:
    """The batches of an evaluation; :class:`SignalInEvaluationError` where a signal has come before one."""

    def __init__(self, batches: Any, signals: Signals) -> None:
        self._batches = batches
        self._signals = signals

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if self._signals.heard is not None:
                raise SignalInEvaluationError
            yield batch
