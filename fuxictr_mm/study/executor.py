"""Many runs, one after the other in this process or several at once in processes of their own.

A worker is a spawned process that is sent one checked experiment after the other. So nothing is written for it and read
again, torch is loaded once per worker, and a run that takes its process down takes no other one along. Workers do not
hear Ctrl-C, which a terminal sends to all: this process alone passes it on, as SIGTERM, so that each of them hears one
signal, saves after the step it is in, and ends.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.errors import is_told, sentence
from fuxictr_mm.run import finished_result, run_experiment
from fuxictr_mm.run.results import append_csv

__all__ = ["end_with", "execute"]

Ended = Callable[[Experiment, str], None]


def execute(
    runs: Sequence[Experiment],
    gpus: Sequence[int],
    after: Callable[[set[str]], Any],
    *,
    csv_file: Path | None = None,
) -> dict[str, str]:
    """Carry out the runs that have not ended yet; half-finished ones go on, one that fails does not stop the others.

    Args:
        runs: already admitted by ``check_runs``, no two of one experiment id, with ``resume: True``.
        gpus: one worker per number, -1 is the CPU; with a single one the runs take place in this process.
        after: called with the ids of all runs that have ended or failed, when there is one more.
        csv_file: FuxiCTR's results file, one row per run.

    Returns:
        Experiment id of a run that failed -> why, in a sentence.

    Raises:
        KeyboardInterrupt: a signal came; the runs that were going on have saved or ended, and no other has begun.
    """
    waiting: deque[Experiment] = deque()
    ended: set[str] = set()
    failures: dict[str, str] = {}
    for run in runs:
        result = finished_result(run)
        if result is None:
            waiting.append(run)
            continue
        ended.add(run.expid)
        if csv_file is not None:  # a run can be killed between its two last files
            append_csv(csv_file, result, unless_there=True)
    with tqdm(total=len(runs), initial=len(ended), desc="runs", file=sys.stderr) as bar:

        def end(run: Experiment, failure: str) -> None:
            ended.add(run.expid)
            if failure:
                failures[run.expid] = failure
            bar.set_postfix_str(f"{run.expid} {'failed' if failure else 'ended'}")
            bar.update()
            after(ended)

        if ended:
            after(ended)
        if min(len(gpus), len(waiting)) > 1:
            _in_processes(waiting, gpus[: len(waiting)], csv_file, end)
        else:
            while waiting:
                run = waiting.popleft().but(gpu=gpus[0])
                end(run, _attempt(run, csv_file))
    return failures


def end_with(failures: dict[str, str]) -> None:
    """Name the runs that failed.

    Raises:
        SystemExit: status 1, if there is one.
    """
    for expid, failure in failures.items():
        print(f"error: {expid}: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


def _attempt(run: Experiment, csv_file: Path | None) -> str:
    """Carry out a run; returns why it failed, in a sentence, or ``""``."""
    try:
        run_experiment(run, csv_file=csv_file)
    except Exception as err:  # a fault of one model, or a GPU that is full, is no reason to give up the other runs
        if is_told(err):
            with suppress(OSError):  # the log's disk may be what is full
                if _has_log(run):
                    logging.error(sentence(err))
            return sentence(err)
        failure = f"{type(err).__name__}: {err}"
        if not _has_log(run):
            traceback.print_exc()
            return failure
        logging.exception(f"{run.expid} failed")
        return f"{failure} (see {run.file('.log')})"
    return ""


def _has_log(run: Experiment) -> bool:
    """Whether logging writes to this run's file, and not still to that of the one before."""
    return str(run.file(".log")) in {getattr(handler, "baseFilename", "") for handler in logging.root.handlers}


def _in_processes(waiting: deque[Experiment], gpus: Sequence[int], csv_file: Path | None, end: Ended) -> None:
    busy: dict[Connection, _Worker] = {}
    try:
        with _threads_shared_out(len(gpus)):
            for gpu in gpus:
                worker = _Worker(gpu, csv_file)
                busy[worker.connection] = worker
                worker.begin(waiting.popleft())
            while busy:
                for connection in wait(list(busy)):
                    worker = busy.pop(connection)  # type: ignore[call-overload]
                    run, failure = worker.run, worker.hear()
                    if not waiting:
                        worker.dismiss()
                    else:
                        if worker.process.exitcode is not None:
                            worker = _Worker(worker.gpu, csv_file)
                        busy[worker.connection] = worker
                        worker.begin(waiting.popleft())
                    end(run, failure)
    except BaseException as err:
        print("\nstopping: no other run begins, the ones going on save and end", file=sys.stderr, flush=True)
        _stop([worker.process for worker in busy.values()])
        if isinstance(err, KeyboardInterrupt):
            raise KeyboardInterrupt("the runs that were going on have saved or ended") from None
        raise


class _Worker:
    """A process that carries out one run after the other on one device."""

    run: Experiment

    def __init__(self, gpu: int, csv_file: Path | None) -> None:
        self.gpu = gpu
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, csv_file))
        with _ctrl_c_ignored():
            self.process.start()
        theirs.close()

    def begin(self, run: Experiment) -> None:
        self.run = run.but(gpu=self.gpu)
        with suppress(BrokenPipeError):  # it has ended, which hear() tells
            self.connection.send(self.run)

    def hear(self) -> str:
        """Why its run failed, or ``""``; waits until one or the other is known."""
        try:
            failure: str = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            return f"its process ended with {how}; the same command continues it"
        return failure

    def dismiss(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection: Connection, csv_file: Path | None) -> None:
    """Carry out what is sent until there is no more; what a worker's process does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            connection.send(_attempt(connection.recv(), csv_file))
    except (EOFError, BrokenPipeError):  # dismissed, or left alone
        return
    except KeyboardInterrupt as err:
        print(f"interrupted: {err or 'no training was going on'}", file=sys.stderr)
        sys.exit(130)


def _stop(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Let processes save and end, and wait for them; a second signal lets them end at once."""
    for process in processes:
        process.terminate()
    for process in processes:
        while process.is_alive():
            try:
                process.join()
            except KeyboardInterrupt:
                for other in processes:
                    other.terminate()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """A process that is started here ignores Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _threads_shared_out(workers: int) -> Iterator[None]:
    """Processes that are started here get their part of the cores, unless the user has set ``OMP_NUM_THREADS``.

    Several processes with as many threads as cores each are many times slower than one thread each.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
