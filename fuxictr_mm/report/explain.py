"""See what a trained model looks at: ``python explain.py --expid Transformer_DCNv2_MMCTR --split test --sample 4``.

Writes ``results/attention_<expid>.json`` and a figure ``.png`` beside it: the share of the attention that each history
item of some rows gets, by layer and head; and prints how the attention behaves over many rows. ``--compare`` puts a
second trained experiment on the same rows beside it, for example one with ``target_concat: False``.
"""

import argparse
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.batch import RaggedBatch
from fuxictr_mm.config.places import of_results
from fuxictr_mm.data.rows import Rows, read_rows
from fuxictr_mm.errors import ConfigError, DataError, needs
from fuxictr_mm.files import atomic_write
from fuxictr_mm.models.history_attention import attention_summary, history_attention, uniform_attention_warning
from fuxictr_mm.parquet import open_parquet
from fuxictr_mm.report.records import Explanation, Head, Looked, Row
from fuxictr_mm.run import Trained, resolve_experiment
from fuxictr_mm.run.provenance import current_commit, machine

SPLITS = ("train", "valid", "test")
TITLE = "item_title"
# More of a title does not fit beside a picture.
TITLE_WIDTH = 28


@dataclass(frozen=True)
class Opened:
    """A trained experiment and the rows of one split."""

    expid: str
    trained: Trained
    data_path: Path
    rows: Rows

    def get(self, key: str, default: Any = None) -> Any:
        """A key that the model was trained with."""
        return self.trained.params.get(key, default)

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[RaggedBatch]:
        """The rows of these numbers, in this order."""
        return self.trained.gatherer().batches(self.rows, order, batch_size)

    def names(self) -> Mapping[int, str]:
        """Raw item id -> title, as far as an item file of the dataset has a column of titles."""
        item_col = self.trained.schema.item_col
        for key in ("item_feature", "item_info"):
            path = self.get(key)
            if path and TITLE in (table := open_parquet(path)).schema_arrow.names:
                columns = table.read([item_col, TITLE]).to_pydict()
                return {item: str(title) for item, title in zip(columns[item_col], columns[TITLE]) if title}
        return {}


def open_trained(expid: str, split: str, config: str | None, dataset: str | None, gpu: int) -> Opened:
    """Restore an experiment and read a split as it was trained, whatever the YAML says by now."""
    experiment = resolve_experiment(expid, config, dataset, gpu=gpu)
    if not experiment.get(f"{split}_data"):
        raise ConfigError(f"--split {split}: dataset {experiment.dataset_id} has no '{split}_data'.")
    data_path = Path(experiment[f"{split}_data"])
    trained = Trained.open(experiment)
    rows = read_rows(data_path, trained.schema, trained.table.item_ids, require_label=False)
    return Opened(expid, trained, data_path, rows)


def chosen_rows(opened: Opened, rows: Sequence[int] | None, sample: int) -> np.ndarray:
    """The rows to draw: those that are asked for, or a sample of those with at least two history items."""
    lengths = opened.rows.lengths
    if rows is not None:
        for row in rows:
            if not 0 <= row < len(lengths):
                raise ConfigError(
                    f"--rows {row}: {opened.data_path} has {len(lengths):,} rows, counted from 0; name one of them."
                )
        return np.array(rows)
    several = np.flatnonzero(lengths > 1)
    if not len(several):
        raise DataError(
            f"{opened.data_path}: no row has a history of two items or more, so there is no choice to see; name rows "
            "with --rows."
        )
    return _drawn(several, sample, opened.get("seed"))


def _drawn(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most ``count`` of the rows, without order, and then as they stand in the file."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))


def look(opened: Opened, order: np.ndarray, many: np.ndarray, split: str) -> Looked:
    """What an experiment looks at: in the rows ``order``, and over ``many`` rows.

    Raises:
        DataError: none of the many rows has a history.
    """
    batch_size = opened.get("batch_size")
    summary = attention_summary(opened.trained.model, opened.batches(many, batch_size))
    if not summary:
        raise DataError(
            f"{opened.data_path}: none of the {len(many):,} rows looked at has a history, so there is no attention "
            "to summarise; take more rows with --batches."
        )
    return Looked(
        expid=opened.expid,
        dataset_id=opened.get("dataset_id"),
        summary=[Head(**head) for head in summary],
        rows=list(explained_rows(opened, order, split)),
    )


def explained_rows(opened: Opened, order: np.ndarray, split: str) -> Iterator[Row]:
    """Each row: what it is, and the share of each history item by layer and head."""
    names, item_ids = opened.names(), opened.trained.table.item_ids

    def name(index: int) -> str:
        item = int(item_ids[index - 1])
        return names.get(item, str(item))

    numbers = iter(order.tolist())
    for batch in opened.batches(order, opened.get("batch_size")):
        seen = history_attention(opened.trained.model, batch)
        shares = torch.stack(seen.shares(), dim=1)  # (B, layers, H, L)
        labels = batch.context.get(opened.trained.schema.label_col)
        for at, (items, is_real) in enumerate(zip(batch.item_ids, seen.is_real_BL)):
            yield Row(
                row=next(numbers),
                split=split,
                label=None if labels is None else int(labels[at]),
                score=float(seen.score_B[at]),
                target=name(int(items[-1])),
                history=[name(index) for index in items[:-1][is_real].tolist()],
                attention=shares[at][:, :, is_real].tolist(),
            )


def to_text(experiments: Sequence[Looked]) -> str:
    """A line per layer, head and experiment; the experiments below one another."""
    header = ["layer", "head", "experiment", "entropy", "if uniform", "of it", "on padding", "moved by target", "rows"]
    order = sorted(
        (
            (head.layer, head.head, number, one.expid, head)
            for number, one in enumerate(experiments)
            for head in one.summary
        ),
        key=lambda entry: entry[:3],
    )
    lines = [header]
    for layer, number, _, expid, head in order:
        uniform, moved = head.entropy_uniform, head.moved_by_target
        lines.append(
            [
                *(str(layer), str(number), expid, f"{head.entropy:.4f}", f"{uniform:.4f}"),
                f"{100 * head.entropy / uniform:.1f} %" if uniform else "-",
                f"{head.share_on_padding:.6f}",
                "-" if moved is None else f"{moved:.4f}",
                f"{head.rows:,}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def remarks(opened: Opened, summary: Sequence[Head]) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    if opened.get("attention") == "din" and not opened.get("din_use_softmax"):
        yield "attention: din without din_use_softmax gives signed scores; shown are shares of their absolute sum."
    on_padding = max(head.share_on_padding for head in summary)
    if on_padding > 1e-6:
        cause = f"padding_mask: {opened.get('padding_mask', 'correct')}"
        yield f"up to {on_padding:.1%} of the attention of a head is on padding ({cause})."
    if warning := uniform_attention_warning([head.model_dump() for head in summary]):
        yield warning


def draw(experiments: Sequence[Looked], path: Path) -> None:
    """Write the figure: a panel per row, a line of panels per experiment, in a panel a column per layer and head.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    rows = [row for one in experiments for row in one.rows]
    across = max(len(one.rows) for one in experiments)
    longest = max(len(row.history) for row in rows)
    heads = max(sum(map(len, row.attention)) for row in rows)
    size = (across * (3.2 + 0.3 * heads), len(experiments) * (1.8 + 0.15 * longest))
    figure = needs("matplotlib.figure", "plot").Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(experiments), across, squeeze=False)
    for line, one in zip(grid, experiments):
        for axes, row in zip(line, one.rows):
            _panel(figure, axes, one.expid, row)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _panel(figure: Any, axes: Any, expid: str, row: Row) -> None:
    label = "" if row.label is None else f", label {row.label}"
    title = f"{expid}\n{row.split} row {row.row}{label}, score {row.score:.3f}\n"
    axes.set_title(title + _short(f"target: {row.target}", TITLE_WIDTH + 8), fontsize=8, parse_math=False)
    columns = [f"{n}.{h}" for n, heads in enumerate(row.attention) for h in range(len(heads))]
    axes.set_xticks(range(len(columns)), columns, fontsize=7)
    axes.set_xlabel("layer.head", fontsize=7)
    if not (history := row.history):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no history", ha="center", transform=axes.transAxes)
        return
    shares = np.array([head for heads in row.attention for head in heads]).T
    # From 0 and up to at least the equal share: nearly uniform attention must not look like contrast.
    image = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0, vmax=max(shares.max(), 1 / len(history)))
    axes.set_yticks(range(len(history)), [_short(item, TITLE_WIDTH) for item in history], fontsize=6, parse_math=False)
    axes.set_ylabel("history, latest last", fontsize=7)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=6)


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder="...") if " " in text else text[:width]


def explain(args: argparse.Namespace, command: str) -> None:
    """Restore, look, draw and write."""
    for name in ("sample", "batches"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}: at least 1 is expected.")
    out = args.out or of_results() / f"attention_{args.expid}.json"
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: a .json file is expected; the figure is written beside it as .png.")
    expids = list(dict.fromkeys([args.expid, *([args.compare] if args.compare else [])]))
    experiments = [open_trained(expid, args.split, args.config, args.dataset, args.gpu) for expid in expids]
    first = experiments[0]
    for other in experiments[1:]:
        if other.data_path != first.data_path:
            raise ConfigError(
                f"--compare {other.expid}: its {args.split} split is {other.data_path}, that of {first.expid} is "
                f"{first.data_path}; compare experiments on the same rows."
            )
    order = chosen_rows(first, args.rows, args.sample)
    many = _drawn(np.arange(len(first.rows)), args.batches * first.get("batch_size"), first.get("seed"))
    looked = [look(opened, order, many, args.split) for opened in experiments]
    print(to_text(looked))
    for opened, one in zip(experiments, looked):
        for remark in remarks(opened, one.summary):
            print(f"{opened.expid}: {remark}")
    draw(looked, out.with_suffix(".png"))
    Explanation(
        **dict(looked[0]),
        command=command,
        commit=current_commit(),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        compared_with=looked[1] if len(looked) > 1 else None,
    ).write(out)
    print(f"written: {out} and {out.with_suffix('.png').name}")


def main(argv: list[str] | None = None) -> None:
    """The verb ``explain``."""
    parser = verb_parser("explain", __doc__, "--expid Transformer_DCNv2_MMCTR --sample 2")
    parser.add_argument("--expid", required=True, help="a trained experiment")
    parser.add_argument("--compare", metavar="EXPID", help="a second one, trained on the same data")
    parser.add_argument("--config", help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--dataset", help="dataset id, instead of the experiments' own")
    parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")
    parser.add_argument("--split", default="test", choices=SPLITS, help="(default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rows", type=int, nargs="+", help="rows of the split to draw, counted from 0")
    which.add_argument("--sample", type=int, default=4, help="or how many at random (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=10, help="batches of random rows to summarise (default: 10)")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/attention_<expid>.json)")
    args = parser.parse_args(argv)
    explain(args, shlex.join(["python", "explain.py", *(sys.argv[1:] if argv is None else argv)]))
