"""Weights files: what is whole and fits is loaded bit by bit, everything else is refused by name."""

import pickle
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fuxictr_mm.errors import DataError
from fuxictr_mm.training.checkpoint import load_weights, read_file, read_weights, write_file, write_weights

SUFFIXES = (".model", ".pth", ".safetensors")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    before, after = network(), network()
    path = tmp_path / "folder" / f"weights{suffix}"
    write_weights(before.state_dict(), path)
    load_weights(after, path)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o444 == 0o444


def test_fuxictr_reads_what_we_write(tmp_path: Path) -> None:
    weights = network().state_dict()
    write_weights(weights, tmp_path / "a.model")
    theirs = torch.load(tmp_path / "a.model", map_location="cpu")
    assert all(torch.equal(value, theirs[name]) for name, value in weights.items())


def test_a_file_of_an_old_torch_is_read(tmp_path: Path) -> None:
    weights = network().state_dict()
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pth")["0.weight"], weights["0.weight"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"short{suffix}"
    write_weights(nn.Linear(40, 40).state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"short{suffix}: not a whole"):
        read_weights(path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.model"
    write_weights({"w": torch.randn(1000, 50)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not torch.isnan(torch.load(path, weights_only=True)["w"]).any()  # torch itself sees nothing wrong
    with pytest.raises(DataError, match=r"flipped.model: damaged \(the checksum of 'archive/data/0' does not fit\)"):
        read_weights(path)


def test_a_flipped_bit_in_a_safetensors_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.safetensors"
    write_weights({"w": torch.randn(20, 5), "b": torch.ones(3, dtype=torch.bfloat16)}, path, {"format": "pt"})
    whole = path.read_bytes()
    weights, refused = read_weights(path), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = read_weights(path)
        except DataError as err:
            refused += "flipped.safetensors: " in str(err)
        else:  # in the name of the checksum, or in what the file says of itself
            assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert refused > 0.9 * len(whole)


def test_a_foreign_safetensors_file_has_no_checksum(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "foreign.safetensors")
    assert torch.equal(read_weights(tmp_path / "foreign.safetensors")["w"], torch.ones(3))


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code has run",))


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": _Evil()}, tmp_path / "evil.pth")
    (tmp_path / "evil.model").write_bytes(pickle.dumps({"w": _Evil()}))
    for name in ("evil.pth", "evil.model"):
        with pytest.raises(DataError, match=rf"{name}: (no checkpoint of tensors alone|not a whole)"):
            read_weights(tmp_path / name)
    assert "code has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3, "state_dict": {}}, torch.ones(2)], ids=["list", "more", "one"]
)
def test_something_else_than_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    write_file(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"other.pth: a state dict \(parameter name -> tensor\) is expected; found"):
        read_weights(tmp_path / "other.pth")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(DataError, match=rf"absent{suffix}: "):
            read_weights(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda w: w.update({"2.weight": torch.ones(1, 5)}),
            r"'2.weight' has shape \(1, 5\), the model expects \(1, 4\)",
        ),
        (lambda w: w.pop("0.bias"), r"parameter '0.bias' \(4,\) is missing"),
        (lambda w: w.update({"7.bias": torch.ones(2)}), r"parameter '7.bias' \(2,\) is unknown to the model"),
        (lambda w: [w.pop("0.bias"), w.pop("0.weight")], r"and 1 more misfits of 9 parameters"),
        (
            lambda w: w.update({"0.bias": torch.ones(4).long()}),
            r"'0.bias' is torch.int64, the model expects torch.float32",
        ),
        (lambda w: w.update({"0.bias": torch.ones(4) * 1j}), r"'0.bias' is torch.complex64"),
        (
            lambda w: w.update({"0.bias": torch.tensor([1, torch.nan, torch.inf, 0])}),
            r"'0.bias' has 2 values of 4 that are NaN or inf",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: object, sentence: str, tmp_path: Path) -> None:
    weights = dict(network().state_dict())
    change(weights)  # type: ignore[operator]
    write_weights(weights, tmp_path / "w.model")
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=rf"w.model: .*{sentence}"):
        load_weights(model, tmp_path / "w.model")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.model"
    write_weights({"w": torch.ones(2)}, path)

    def half(content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write_weights({"w": torch.zeros(2)}, path)
    assert torch.equal(read_file(path)["w"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["w.model"]
