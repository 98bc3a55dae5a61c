"""Scores of many candidates for one user: the history is embedded once, and each distinct item once.

A request lies in memory and has raw item ids; rows of a file are scored by :mod:`fuxictr_mm.serve.prediction`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fuxictr_mm.config.keys import Positive, check_value
from fuxictr_mm.config.schema import Column
from fuxictr_mm.errors import ConfigError, DataError
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.models.item_vectors import ComparedVectors
from fuxictr_mm.run.trained import Trained

__all__ = ["Ranker"]


class Ranker:
    """Scores candidates for one user at a time, with a model of ours and the item table it was trained with.

    The scores are those of ``model.predict`` on rows with the same history, candidate and context. Item columns lie on
    the model's device once, for all rankers and loaders of a process. The history is as long as it is, up to what
    training kept of one.

    Args:
        trained: of ``Transformer_DCNv2``, ``DIN_SE_MHTA`` or another
            :class:`~fuxictr_mm.models.base.MultimodalRankModel`.
        batch_size: candidates per forward pass; it bounds the memory of one.

    Raises:
        ConfigError: the model is none of ours, or ``batch_size`` is no number of candidates.
    """

    def __init__(self, trained: Trained, *, batch_size: int = 1024) -> None:
        if not isinstance(trained, Trained):
            raise ConfigError(
                f"Ranker takes a Trained, which knows how its model was fed; found {type(trained).__name__}. Use "
                "Trained.open(experiment), or Trained.of(model, feature_map, params) for a model of your own script."
            )
        if not isinstance(trained.model, MultimodalRankModel):
            raise ConfigError(
                f"model={type(trained.model).__name__}: a Ranker embeds the history apart from the candidates, which "
                "only models of fuxictr_mm allow; score others with predict_file."
            )
        self.model = trained.model
        self.batch_size = check_value("batch_size", Positive, batch_size)
        self._schema = trained.schema
        # As a batch: without history one position of padding stands in, and untrimmed ones are all as long as max_len.
        self._shortest = 1 if trained.trim else trained.schema.max_len
        self._index_of = trained.table.index_of
        self._columns = trained.columns()

    def score(
        self, history: Sequence[int] | np.ndarray, candidates: Sequence[int] | np.ndarray, context: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the click probability of each candidate, (n,) float32, in their order.

        Args:
            history: raw ids of the items that the user clicked, latest last; may be empty. 0 is padding and left out.
            candidates: (n,) raw item ids; one may occur several times, with another context for example.
            context: context column -> one value for all candidates, or (n,) values.

        Raises:
            DataError: an id is unknown, a candidate is 0, a context column is missing, unknown, of another length or
                outside its vocabulary, or a score is not finite.
        """
        history_ids, candidate_ids = _ids(history, "history"), _ids(candidates, "candidates")
        clicked = self._indices(history_ids[history_ids != 0], "history")[-self._schema.max_len :]
        if (candidate_ids == 0).any():
            raise DataError("candidates: 0 is the padding item and cannot be scored; leave it out.")
        wanted = self._indices(candidate_ids, "candidates")
        columns = self._context(context, len(wanted))
        if not len(wanted):
            return np.zeros(0, np.float32)
        if self.model.training:
            self.model.eval()
        with torch.no_grad(), self.model.autocast():
            scores = self._score(clicked, wanted, columns).float().cpu().numpy()
        bad = ~np.isfinite(scores)
        if bad.any():
            at = int(bad.argmax())
            raise DataError(
                f"candidates: id {candidate_ids[at]} has the score {scores[at]}; a finite one is expected, so check "
                "the weights, the item's vectors and the context."
            )
        return scores

    def _score(self, clicked: np.ndarray, wanted: np.ndarray, context: dict[str, torch.Tensor]) -> torch.Tensor:
        """Item indices (L,) and (n,), column -> (n,) tensor -> (n,)."""
        device = self.model.device
        distinct, place = np.unique(np.concatenate([clicked, wanted]), return_inverse=True)
        rows = torch.from_numpy(distinct).to(device)
        items = {name: column.index_select(0, rows) for name, column in self._columns.on(device).items()}
        items_UD = self.model.embedding_layer(items)
        vectors = self.model.vectors.units(items)
        place_of = torch.from_numpy(place.reshape(-1)).to(device)
        padding = max(self._shortest - len(clicked), 0)
        is_real_1L = nn.functional.pad(torch.ones(1, len(clicked), dtype=torch.bool, device=device), (padding, 0))
        history_1LD = nn.functional.pad(items_UD[place_of[: len(clicked)]], (0, 0, padding, 0)).unsqueeze(0)
        scores = []
        for start in range(0, len(wanted), self.batch_size):
            part = slice(start, start + self.batch_size)
            place_B = place_of[len(clicked) :][part]
            target_BD = items_UD[place_B]
            size = len(target_BD)
            context_BC = self.model.embedding_layer.context({name: c[part] for name, c in context.items()}, size)
            history_BLD, is_real_BL = history_1LD.expand(size, -1, -1), is_real_1L.expand(size, -1)
            compared = _compare(vectors, place_B, place_of[: len(clicked)], padding) if vectors else None
            score_B1 = self.model.rank(context_BC, target_BD, history_BLD, is_real_BL, compared)
            scores.append(score_B1.reshape(-1))
        return torch.cat(scores)

    def _indices(self, ids: np.ndarray, where: str) -> np.ndarray:
        index = self._index_of(ids)
        if (index < 0).any():
            raise DataError(
                f"{where}: the item table has no id {ids[int((index < 0).argmax())]}; leave it out, or add the item."
            )
        return index

    def _context(self, given: Mapping[str, Any], n: int) -> dict[str, torch.Tensor]:
        names = [column.name for column in self._schema.context_columns]
        if sorted(given) != sorted(names):
            raise DataError(f"context: found the columns {sorted(given)}, but the model reads {sorted(names)}.")
        device = self.model.device
        return {c.name: torch.from_numpy(_values(c, given[c.name], n)).to(device) for c in self._schema.context_columns}


def _compare(
    vectors: Sequence[ComparedVectors], target_B: torch.Tensor, clicked_L: torch.Tensor, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``model.vectors.compare`` returns, where all rows share one history, which need not be copied for each.

    Args:
        vectors: of ``model.vectors.units``.
        target_B, clicked_L: places in them.
        padding: positions of it in front of what was clicked.
    """
    found, known = [], []
    is_other_BL = target_B.unsqueeze(1) != clicked_L
    for target_UW, is_known_target_U, history_UW, is_known_history_U in vectors:
        with torch.autocast(target_UW.device.type, enabled=False):
            cosine_BL = target_UW[target_B] @ history_UW[clicked_L].T
        is_known_BL = is_other_BL & is_known_target_U[target_B].unsqueeze(1) & is_known_history_U[clicked_L]
        found.append(nn.functional.pad(cosine_BL, (padding, 0)))
        known.append(nn.functional.pad(is_known_BL, (padding, 0)))
    return torch.stack(found, dim=-1), torch.stack(known, dim=-1)


def _ids(values: Sequence[int] | np.ndarray, where: str) -> np.ndarray:
    ids = np.asarray(values)
    if not ids.size:
        return np.zeros(0, np.int64)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{where}: found {ids.dtype} of shape {ids.shape}; one list of whole item ids is expected.")
    return ids


def _values(column: Column, given: Any, n: int) -> np.ndarray:
    """Check the values of one context column and spread them over the candidates: (n,) int32, or float32."""
    values = np.asarray(given)
    where = f"context column {column.name!r}"
    if values.shape not in ((), (n,)):
        raise DataError(f"{where}: found the shape {values.shape}; one value, or one for each of {n} is expected.")
    if column.type == "numeric":
        if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
            raise DataError(f"{where}: found {given!r}; finite numbers are expected.")
        return np.broadcast_to(column.scaled(values), n).copy()
    limit = column.vocab_size or np.iinfo(np.int32).max
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"{where}: found {values.dtype}; whole numbers in 0..{limit - 1} are expected (type: categorical)."
        )
    outside = (values < 0) | (values >= limit)
    if outside.any():
        raise DataError(f"{where}: found {values[outside].flat[0]}; an id in 0..{limit - 1} is expected.")
    return np.broadcast_to(values.astype(np.int32), n).copy()
