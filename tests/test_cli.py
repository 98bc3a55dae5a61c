"""What the command tells its user of errors: one sentence with what to do, and the status."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_mm.cli import user_errors
from tests import REPOSITORY


def told(err: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught, user_errors():
        raise err
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "no space left on device; free some space"),
        (errno.EACCES, "permission denied; change its permissions"),
        (errno.EROFS, "read-only file system; name a place that can be written to"),
        (errno.ENAMETOOLONG, "file name too long; choose a shorter name"),
        (errno.ENOTDIR, "not a directory; a file is where a folder belongs"),
        (errno.EISDIR, "is a directory; a folder is where a file belongs"),
        (errno.ENETDOWN, "network is down; look at that place, then run it again"),
    ],
)
def test_a_system_error_is_a_sentence_with_its_path(number: int, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"error: /data/x.model: {what}" in told(OSError(number, os.strerror(number), "/data/x.model"), capsys)


def test_memory_that_is_used_up_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    err = MemoryError("Unable to allocate\n 3 GiB for an array")
    assert "memory is used up (Unable to allocate 3 GiB for an array); set stream: True" in told(err, capsys)
    assert "memory is used up; set stream: True" in told(MemoryError(), capsys)
    torchs = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")
    assert "memory is used up ([enforce fail" in told(torchs, capsys)


def test_a_fault_of_ours_is_no_sentence() -> None:
    with pytest.raises(RuntimeError, match="of ours"), user_errors():
        raise RuntimeError("a fault of ours")


def test_a_log_that_cannot_be_written_does_not_hide_the_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x.log")

    monkeypatch.setattr(logging, "error", full)
    assert "error: /x: no space left" in told(OSError(errno.ENOSPC, "No space left on device", "/x"), capsys)


def test_a_file_where_a_folder_belongs_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    command = [sys.executable, "-m", "fuxictr_mm", "demo", "--out", str(tmp_path / "file" / "demo"), "--rows", "4000"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'file'}")
