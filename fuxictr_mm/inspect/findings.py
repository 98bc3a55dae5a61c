"""What was found in a dataset, as numbers, as a table and as a plot; :mod:`fuxictr_mm.inspect.inspection` finds it.

These are facts to judge, not rules: what breaks a rule is refused by the contract.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_mm.errors import needs
from fuxictr_mm.files import atomic_write
from fuxictr_mm.inspect.worth import COSINES, Worth

__all__ = ["Findings", "LevelFindings", "ModalityFindings", "SplitFindings"]

# An agreement that scores further than this from 0.5 is called a leak.
LEAK_AUC = 0.05


@dataclass(frozen=True)
class SplitFindings:
    """One split.

    Attributes:
        rows: number of rows.
        label_share: share of rows with label 1, ``None`` without labels.
        users: distinct values of the group column, ``None`` where the dataset names none.
        items: distinct target items.
        cold_items, cold_rows: distinct targets that nobody clicked in train, neither with label 1 nor by a history, and
            their share of the rows.
        length_counts: (longest + 1,) rows per history length, padding not counted and nothing cut off.
        target_counts: (n_items + 1,) rows per target item.
    """

    rows: int
    label_share: float | None
    users: int | None
    items: int
    cold_items: int
    cold_rows: float
    length_counts: np.ndarray
    target_counts: np.ndarray

    @property
    def history(self) -> dict[str, float]:
        """Minimum, median, mean, 90 % quantile and maximum length, and the share of empty histories."""
        counts = self.length_counts
        lengths = np.flatnonzero(counts)
        # Smallest length that at least this share of rows does not exceed: exact from counts, without the rows.
        below = np.cumsum(counts) / counts.sum()
        return {
            "min": int(lengths[0]),
            "median": int(np.searchsorted(below, 0.5)),
            "mean": float(np.average(np.arange(len(counts)), weights=counts)),
            "p90": int(np.searchsorted(below, 0.9)),
            "max": int(lengths[-1]),
            "empty_share": float(counts[0] / counts.sum()),
        }

    def to_dict(self) -> dict[str, Any]:
        names = ("rows", "label_share", "users", "items", "cold_items", "cold_rows")
        return {**{name: getattr(self, name) for name in names}, "history": self.history}


@dataclass(frozen=True)
class ModalityFindings:
    """The raw vectors of one modality.

    Attributes:
        dimension: length of a vector.
        missing: items without a vector (null, or no row in the file).
        norms: (items with a vector,) Euclidean norms; null in the file means missing, and a norm of 0 is a vector.
        spread: effective rank, share of duplicated vectors and share near the mean; ``None`` of fewer than two vectors.
        neighbours: some items and those closest to them, by title if the items have one, else by id.
    """

    dimension: int
    missing: int
    norms: np.ndarray
    spread: tuple[float, float, float] | None = None
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension,
            "rows": len(self.norms),
            "missing": self.missing,
            "zero": int((self.norms == 0).sum()),
            "mean_norm": float(self.norms.mean()) if len(self.norms) else None,
            "std_norm": float(self.norms.std()) if len(self.norms) else None,
            **dict(zip(("effective_rank", "duplicated", "near_mean"), self.spread or (None, None, None))),
        }


@dataclass(frozen=True)
class LevelFindings:
    """How often the row value of some context columns is the target item's own value.

    Attributes:
        split: name of the split.
        columns: the columns that must all agree.
        rows: rows whose target has such a value of its own.
        agreement: share of those rows that agree.
        by_label: the same among the rows of label 0 and of label 1; ``None`` unless both labels occur.
    """

    split: str
    columns: tuple[str, ...]
    rows: int
    agreement: float
    by_label: tuple[float, float] | None

    @property
    def auc(self) -> float | None:
        """AUC of "agrees" as the only score: for a yes/no score the ROC curve has one corner, which gives it."""
        return None if self.by_label is None else 0.5 + (self.by_label[1] - self.by_label[0]) / 2

    @property
    def is_leak(self) -> bool:
        return self.auc is not None and abs(self.auc - 0.5) > LEAK_AUC

    @property
    def verdict(self) -> str:
        if self.auc is None:
            return "cannot be judged without both labels"
        if self.is_leak:
            return "LEAK: gives the label away; leave it out, or use the item's own value"
        return "fine: says nothing about the label"

    def to_dict(self) -> dict[str, Any]:
        own = {"split": self.split, "columns": list(self.columns), "rows": self.rows, "agreement": self.agreement}
        by_label = None if self.by_label is None else {"0": self.by_label[0], "1": self.by_label[1]}
        return {**own, "by_label": by_label, "auc": self.auc, "verdict": self.verdict}


@dataclass(frozen=True)
class Findings:
    """All findings about one dataset.

    Attributes:
        n_items: items of the item table.
        splits: split name -> findings.
        shared_users: pair of splits -> users that occur in both; empty where the dataset names no group column.
        modalities: name -> findings.
        levels: one entry per split and context column that items have too, and one for all such columns together.
        worth: whether vectors will help, one entry per modality and one for all; empty without labels on valid.
    """

    n_items: int
    splits: dict[str, SplitFindings]
    shared_users: dict[tuple[str, str], int]
    modalities: dict[str, ModalityFindings]
    levels: list[LevelFindings]
    worth: list[Worth] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, as JSON takes them."""
        return {
            "n_items": self.n_items,
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "shared_users": {f"{a}, {b}": count for (a, b), count in self.shared_users.items()},
            "modalities": {
                name: {**one.to_dict(), "neighbours": {title: list(others) for title, others in one.neighbours.items()}}
                for name, one in self.modalities.items()
            },
            "levels": [level.to_dict() for level in self.levels],
            "worth": {worth.name: worth.to_dict() for worth in self.worth},
        }

    def to_table(self) -> str:
        """Plain text for people."""
        header = ["split", "rows", "label 1", "users", "items", "cold items", "cold rows"]
        history = ["min", "median", "mean", "p90", "max", "empty"]
        rows: list[list[Any]] = []
        for name, split in self.splits.items():
            *lengths, empty = split.history.values()
            cells = [name, split.rows, _percent(split.label_share), split.users, split.items, split.cold_items]
            rows.append([*cells, _percent(split.cold_rows), *lengths, _percent(empty)])
        blocks = [
            f"Splits ({self.n_items:,} items; cold: nobody clicked it in train, with label 1 or by a history; "
            "history lengths on the right)",
            _table([*header, *history], rows),
        ]
        if self.shared_users:
            pairs = [f"{a} and {b}: {count:,}" for (a, b), count in self.shared_users.items()]
            blocks += ["", f"Users in several splits: {'; '.join(pairs)}"]
        if self.modalities:
            header = ["modality", "dimension", "vectors", "missing", "zero", "mean norm", "std norm", "effective rank"]
            header += ["duplicated", "near mean"]
            rows = []
            for name, modality in self.modalities.items():
                *numbers, duplicated, near = modality.to_dict().values()
                rows.append([name, *numbers, _percent(duplicated), _percent(near)])
            blocks += [
                "",
                "Vectors (null means missing; zero: all-zero vectors, real unless zero_vectors: missing is set)",
            ]
            blocks.append(_table(header, rows))
            for name, modality in self.modalities.items():
                near_ones = [f"  {title}: {', '.join(others)}" for title, others in modality.neighbours.items()]
                blocks += ["", f"Closest by {name}", *near_ones] if near_ones else []
        if self.worth:
            blocks += ["", *self._will_they_help()]
        if self.levels:
            blocks += ["", "Row value equals the item's own value, by label, and the AUC of that alone"]
            header = ["split", "column", "rows", "all", "label 0", "label 1", "AUC", "verdict"]
            rows = []
            for level in self.levels:
                shares = [_percent(share) for share in (level.agreement, *(level.by_label or (None, None)))]
                auc = None if level.auc is None else f"{level.auc:.4f}"
                rows.append([level.split, " and ".join(level.columns), level.rows, *shares, auc, level.verdict])
            blocks.append(_table(header, rows))
        return "\n".join(blocks)

    def _will_they_help(self) -> list[str]:
        popularity = self.worth[0].popularity
        title = "Will the vectors help? Valid AUC of cosines of target and history, untrained, and of a regression with"
        header = ["modality", *COSINES, "with popularity", "gAUC", "shuffled vectors"]
        rows: list[list[Any]] = [["(none)", *[None] * len(COSINES), popularity.auc, popularity.gauc, None]]
        for worth in self.worth:
            cosines = [worth.cosines[name].auc if worth.cosines else None for name in COSINES]
            rows.append(
                [worth.name, *cosines, worth.with_popularity.auc, worth.with_popularity.gauc, worth.permuted.auc]
            )
        told = [f"  {worth.advice}" for worth in self.worth]
        return [f"{title} popularity", _table(header, rows), "AUC gained, with 95 % intervals over users:", *told]

    def plot(self, path: str | Path) -> None:
        """Write four panels: history lengths, item frequencies, vector norms, agreement of levels by label.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        path = Path(path)
        figure = needs("matplotlib.figure", "plot").Figure(figsize=(12, 8), layout="constrained")
        (lengths, items), (norms, levels) = figure.subplots(2, 2)
        self._plot_lengths(lengths)
        self._plot_items(items)
        self._plot_norms(norms)
        self._plot_levels(levels)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=120)

    def _plot_lengths(self, axes: Any) -> None:
        for name, split in self.splits.items():
            axes.step(np.arange(len(split.length_counts)), split.length_counts / split.rows, where="mid", label=name)
        axes.set(title="History length", xlabel="items in the history", ylabel="share of rows")
        axes.legend()

    def _plot_items(self, axes: Any) -> None:
        for name, split in self.splits.items():
            counts = np.sort(split.target_counts[split.target_counts > 0])[::-1]
            axes.loglog(np.arange(1, len(counts) + 1), counts, ".-", markersize=3, label=name)
        axes.set(title="Target item frequency", xlabel="item, most frequent first", ylabel="rows")
        axes.legend()

    def _plot_norms(self, axes: Any) -> None:
        axes.set(title="Vector norm by modality", xlabel="Euclidean norm (log scale)", ylabel="items")
        positive = {name: modality.norms[modality.norms > 0] for name, modality in self.modalities.items()}
        positive = {name: norms for name, norms in positive.items() if len(norms)}
        if not positive:
            axes.text(0.5, 0.5, "no vectors", ha="center", transform=axes.transAxes)
            return
        everything = np.concatenate(list(positive.values()))
        bins = np.geomspace(everything.min() / 1.1, everything.max() * 1.1, 120)
        for name, norms in positive.items():
            axes.hist(norms, bins, alpha=0.6, label=f"{name} ({self.modalities[name].dimension})")
        axes.set(xscale="log", yscale="log")
        axes.legend()

    def _plot_levels(self, axes: Any) -> None:
        axes.set(title="Row value is the item's own value", xlabel="share of rows")
        judged = [level for level in self.levels if level.by_label is not None]
        if not judged:
            axes.text(0.5, 0.5, "no column to compare by label", ha="center", transform=axes.transAxes)
            return
        at = np.arange(len(judged))
        for label, shift in ((0, -0.2), (1, 0.2)):
            shares = [level.by_label[label] for level in judged if level.by_label is not None]
            axes.barh(at + shift, shares, 0.4, label=f"label {label}")
        names = [f"{level.split}: " + "\nand ".join(level.columns) + f"\nAUC {level.auc:.3f}" for level in judged]
        axes.set_yticks(at, names, fontsize=7)
        axes.set_xlim(0, 1.35)
        axes.invert_yaxis()
        axes.legend(loc="center right")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"


def _table(header: list[str], rows: list[list[Any]]) -> str:
    """Columns of texts start left, all others end right; ``None`` shows as a dash."""
    cells = [header, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    left = [header[i] in ("split", "modality", "column", "verdict") for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, left)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
