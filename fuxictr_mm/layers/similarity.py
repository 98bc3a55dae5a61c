"""How alike the target is to each item of the history, per modality: numbers that no id has to be learned for."""

import torch
from torch import nn

__all__ = ["HistorySimilarity", "cosines", "unit_rows"]

# What a chunk of rows may gather on a CPU: more is new memory from the system each time.
CHUNK_BYTES = 16 << 20
# Products that cost as much time on a CPU as gathering one number; 61 to 79 in four shapes.
PRODUCTS_PER_GATHERED = 64


def unit_rows(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(U, W) -> the rows divided by their norms, and (U,) bool: False for a row of zeros, which stays one."""
    norm_U1 = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    is_known_U1 = norm_U1 > 0
    return vectors / norm_U1.where(is_known_U1, 1.0), is_known_U1.squeeze(-1)


def cosines(target_UW: torch.Tensor, history_UW: torch.Tensor, item_index: torch.Tensor) -> torch.Tensor:
    """Cosine of the target with every position of its history.

    Args:
        target_UW, history_UW: rows of norm 1 (or 0) of U distinct items, as targets and as items of a history.
        item_index: (B, L + 1) row of ``history_UW`` for each history position, then of ``target_UW``.

    Returns:
        (B, L).
    """
    if torch.compiler.is_compiling() or target_UW.device.type != "cpu":
        return _gathered(target_UW, history_UW, item_index)
    history, targets = item_index[:, :-1], item_index[:, -1]
    distinct, place_B = targets.unique(return_inverse=True)
    if len(history_UW) * len(distinct) <= PRODUCTS_PER_GATHERED * history.numel():
        return (target_UW[distinct] @ history_UW.T)[place_B.unsqueeze(1), history]
    rows = max(1, CHUNK_BYTES // (history_UW[0].nbytes * item_index.shape[1]))
    return torch.cat([_gathered(target_UW, history_UW, index) for index in item_index.split(rows)])


def _gathered(target_UW: torch.Tensor, history_UW: torch.Tensor, item_index: torch.Tensor) -> torch.Tensor:
    history_BLW = nn.functional.embedding(item_index[:, :-1], history_UW)
    return torch.bmm(history_BLW, target_UW[item_index[:, -1]].unsqueeze(-1)).squeeze(-1)


class HistorySimilarity(nn.Module):
    """Cosines of the target with its history, standardised and summed up.

    Vectors are compared as they are stored, without learned maps, so an item that training never saw is compared as
    well as any other. Standardised with mean and variance of all cosines seen in training: in a space where all
    vectors point one way, cosines of 0.95 and 0.97 are far apart.

    Args:
        modalities: number M of modalities.
        top_k: how many of the most similar history items are averaged beside the mean over all.
        bias: learn one weight per modality with which standardised cosines are added to the logits of an attention
            over the history; they start at 0.

    Attributes:
        out_dim: 2 M.
    """

    n_M: torch.Tensor
    mean_M: torch.Tensor
    squares_M: torch.Tensor

    def __init__(self, modalities: int, top_k: int = 3, bias: bool = False) -> None:
        super().__init__()
        self.top_k = top_k
        self.out_dim = 2 * modalities
        # Sums over every cosine so far, and no moving average: what is learned on top must not see its scale drift.
        for name in ("n_M", "mean_M", "squares_M"):
            self.register_buffer(name, torch.zeros(modalities, dtype=torch.float64))
        self.weight_M = nn.Parameter(torch.zeros(modalities)) if bias else None

    def standardise(self, cosine_BLM: torch.Tensor, is_known_BLM: torch.Tensor) -> torch.Tensor:
        """(B, L, M) cosines -> (B, L, M), mean 0 and variance 1 over training; exactly 0 where nothing is known.

        In training mode the batch is taken into mean and variance first.

        Args:
            cosine_BLM: of :func:`cosines`, one modality beside the other.
            is_known_BLM: bool, False at padding and where either vector is missing.
        """
        if self.training:
            self._take_in(cosine_BLM.detach(), is_known_BLM)
        variance_M = self.squares_M / self.n_M.clamp(min=1)
        # Where all cosines are equal, or none has been seen, there is nothing to divide by.
        factor_M = torch.where(variance_M > 1e-12, variance_M, 1.0).rsqrt()
        z_BLM = (cosine_BLM - self.mean_M.to(cosine_BLM)) * factor_M.to(cosine_BLM)
        return z_BLM.masked_fill(~is_known_BLM, 0.0)

    def forward(self, z_BLM: torch.Tensor, is_known_BLM: torch.Tensor) -> torch.Tensor:
        """(B, L, M) of :meth:`standardise` -> (B, 2 M): means over the history, then means of the ``top_k`` largest.

        Only known positions count; a row without any gets zeros.
        """
        known_BM = is_known_BLM.sum(dim=1)
        mean_BM = z_BLM.sum(dim=1) / known_BM.clamp(min=1)
        # Padded, so that a history may be shorter than top_k.
        ranked_BLM = nn.functional.pad(
            z_BLM.masked_fill(~is_known_BLM, -torch.inf), (0, 0, self.top_k, 0), value=-torch.inf
        )
        top_BKM = ranked_BLM.topk(self.top_k, dim=1).values
        top_BM = top_BKM.masked_fill(top_BKM.isinf(), 0.0).sum(dim=1) / known_BM.clamp(min=1, max=self.top_k)
        return torch.cat([mean_BM, top_BM], dim=-1)

    def bias(self, z_BLM: torch.Tensor) -> torch.Tensor | None:
        """(B, L, M) of :meth:`standardise` -> (B, L) to add to attention logits; ``None`` without ``bias``."""
        return None if self.weight_M is None else z_BLM @ self.weight_M

    def _take_in(self, cosine_BLM: torch.Tensor, is_known_BLM: torch.Tensor) -> None:
        """Merge the moments of a batch into those so far (Chan, Golub, LeVeque 1983, equations 2.1)."""
        n_M = is_known_BLM.sum(dim=(0, 1)).double()
        known = cosine_BLM.double().masked_fill(~is_known_BLM, 0.0)
        mean_M = known.sum(dim=(0, 1)) / n_M.clamp(min=1)
        squares_M = (known - mean_M).masked_fill(~is_known_BLM, 0.0).square().sum(dim=(0, 1))
        total_M = (self.n_M + n_M).clamp(min=1)
        shift_M = mean_M - self.mean_M
        self.squares_M += squares_M + shift_M.square() * self.n_M * n_M / total_M
        self.mean_M += shift_M * n_M / total_M
        self.n_M += n_M
