"""Does the history get looked at? The attention that a trained model pays to each history item.

A model reads its weights from torch's and the host's own layers by hooks while it scores a batch, so no forward pass is
written a second time.

Axis letters: B = rows, H = heads, Q = queries, L = history length.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models.registry import registered_models

__all__ = [
    "Heard",
    "HistoryAttention",
    "attention_summary",
    "history_attention",
    "listen",
    "uniform_attention_warning",
]

# An entropy this near to that of equal shares, relatively, is called uniform.
NEARLY_UNIFORM = 0.01


@dataclass(frozen=True)
class HistoryAttention:
    """How a model weighs the history of each row of a batch; all tensors on the CPU, in the batch's order.

    The queries are the target alone (Q = 1) in DIN_SE_MHTA, and the positions of the history themselves (Q = L) in
    Transformer_DCNv2, where the target stands in every token. Only queries at real positions count: what padding
    attends to reaches no output. A row without history has none, and everything about it is 0.

    Attributes:
        weights: one (B, H, Q, L) float64 per layer, as the model uses them: padding has the weight that it gets there.
            ``attention: din`` without ``din_use_softmax`` gives signed scores that sum to anything; of these it is each
            position's share of the absolute sum.
        is_query_BQ: (B, Q) bool: the queries that count.
        is_real_BL: (B, L) bool: True where the history position holds an item; L is at least 1.
        score_B: (B,) float64, the model's answer.
    """

    weights: tuple[torch.Tensor, ...]
    is_query_BQ: torch.Tensor
    is_real_BL: torch.Tensor
    score_B: torch.Tensor

    def shares(self) -> tuple[torch.Tensor, ...]:
        """One (B, H, L) per layer: the weight that a position receives, averaged over the queries that count.

        The shares of a row sum to 1, or to 0 without history.
        """
        return tuple(self._over_queries(weights) for weights in self.weights)

    def entropy(self) -> tuple[torch.Tensor, ...]:
        """One (B, H) per layer, in nats: the entropy of each query's weights, averaged over the queries that count.

        Entropy is taken per query, then averaged: the mean of queries that each look at one item, all at different
        ones, would be equal shares. n real items have an entropy of ln n exactly if every query weighs all alike.
        """
        return tuple(self._over_queries(torch.special.entr(weights).sum(dim=-1)) for weights in self.weights)

    def distance(self, other: "HistoryAttention") -> tuple[torch.Tensor, ...]:
        """One (B, H) per layer: total variation distance to the weights of ``other``, averaged over the same queries.

        Between 0 (equal) and 1 (no position in common).
        """
        pairs = zip(self.weights, other.weights)
        return tuple(self._over_queries((one - two).abs().sum(dim=-1) / 2) for one, two in pairs)

    def _over_queries(self, values: torch.Tensor) -> torch.Tensor:
        """(B, H, Q, ...) -> (B, H, ...)."""
        count_B1 = self.is_query_BQ.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bq,bhq...->bh...", self.is_query_BQ.double() / count_B1, values)


class Heard(NamedTuple):
    """What :func:`listen` found, in float64 on the CPU.

    Attributes:
        outputs: the first output of each layer, the second where a layer gives ``(output, weights)``.
        is_real_BL, score_B: see :class:`HistoryAttention`.
    """

    outputs: list[torch.Tensor]
    is_real_BL: torch.Tensor
    score_B: torch.Tensor


def listen(model: Any, inputs: Any, layers: Iterable[nn.Module]) -> Heard:
    """Score a batch and keep what some layers of the model give; it is put into eval mode, otherwise left as it was.

    Args:
        model: a :class:`~fuxictr_mm.models.base.MultimodalRankModel`.
        inputs: what its ``forward`` takes, with or without labels.
        layers: each is called once while the batch is scored.
    """
    batch = MultimodalBatch.from_inputs(inputs).to(model.device)
    outputs: list[torch.Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) else output
        outputs.append(weights.double().cpu())

    model.eval()
    with torch.no_grad(), ExitStack() as stack:
        if (compiled := model.__dict__.pop("score", None)) is not None:  # a compiled graph calls no hooks
            stack.callback(setattr, model, "score", compiled)
        for layer in layers:
            stack.enter_context(layer.register_forward_hook(keep))
        score = model.forward(batch)["y_pred"]
    is_real_BL = batch.is_real_BL.cpu()
    if not is_real_BL.shape[1]:  # the model puts one position of padding there
        is_real_BL = is_real_BL.new_zeros(len(is_real_BL), 1)
    return Heard(outputs, is_real_BL, score.double().cpu().reshape(-1))


def history_attention(model: Any, inputs: Any) -> HistoryAttention:
    """Score a batch and keep the attention weights: what the model's ``attention_weights(inputs)`` returns.

    Args:
        model: of any class; put into eval mode, otherwise left as it was.
        inputs: what the model's ``forward`` takes, with or without labels.

    Raises:
        ConfigError: the model has no attention over the history, or no such method.
    """
    if not hasattr(model, "attention_weights"):
        able = " and ".join(name for name, kind in registered_models().items() if hasattr(kind, "attention_weights"))
        raise ConfigError(
            f"model {type(model).__name__}: attention can be read from {able}; explain an experiment with one of them."
        )
    answer: HistoryAttention = model.attention_weights(inputs)
    return answer


def attention_summary(model: Any, batches: Iterable[Any]) -> list[dict[str, Any]]:
    """Summarise the attention over the rows of some batches, a row without history left out.

    Args:
        model: see :func:`history_attention`.
        batches: for example a loader, or the first few batches of one; each is scored twice.

    Returns:
        one dict per layer and head, both counted from 0 as in the names of parameters; empty if no row has a history.
        ``entropy``: mean of :meth:`HistoryAttention.entropy`, nats; ``entropy_uniform``: what it would be if all real
        items had equal shares; ``share_on_padding``: mean share that padding receives, 0 unless the mask is wrong;
        ``moved_by_target``: mean :meth:`HistoryAttention.distance` if the row gets the target of the row before it in
        its batch, over the rows where that is another item, ``None`` if there are none; 0 if the target plays no role;
        ``rows``: how many have a history.

    Raises:
        ConfigError: the model has no attention over the history.
    """
    entropy = padding = moved = torch.zeros((), dtype=torch.float64)  # (layers, H) as soon as there is a batch
    uniform = 0.0
    rows = pairs = 0
    for inputs in batches:
        batch = MultimodalBatch.from_inputs(inputs)
        seen = history_attention(model, batch)
        has_history_B = seen.is_real_BL.any(dim=1)
        rows += int(has_history_B.sum())
        uniform += float(seen.is_real_BL.sum(dim=1).clamp(min=1).double().log().sum())
        entropy = entropy + torch.stack(seen.entropy()).sum(dim=1)
        shares = torch.stack(seen.shares())
        padding = padding + torch.einsum("nbhl,bl->nh", shares, (~seen.is_real_BL).double())
        other, is_other_B = _with_targets_moved_on(batch)
        counts_B = has_history_B & is_other_B
        pairs += int(counts_B.sum())
        distance = torch.stack(seen.distance(history_attention(model, other)))
        moved = moved + distance[:, counts_B].sum(dim=1)
    if not rows:
        return []
    return [
        {
            "layer": layer,
            "head": head,
            "entropy": float(entropy[layer, head]) / rows,
            "entropy_uniform": uniform / rows,
            "share_on_padding": float(padding[layer, head]) / rows,
            "moved_by_target": float(moved[layer, head]) / pairs if pairs else None,
            "rows": rows,
        }
        for layer in range(entropy.shape[0])
        for head in range(entropy.shape[1])
    ]


def uniform_attention_warning(summary: Sequence[Mapping[str, Any]]) -> str | None:
    """Return one sentence if every layer and head of a summary weighs the history uniformly, else ``None``.

    Uniform means an entropy within 1 % of that of equal shares. Histories of one item say nothing, nor does an empty
    summary.
    """
    if not any(head["entropy_uniform"] for head in summary):
        return None
    if any(_from_uniform(head) > NEARLY_UNIFORM for head in summary):
        return None
    farthest = max(summary, key=_from_uniform)
    return (
        "the entropy of the attention over the history is within 1 % of that of equal shares in every layer and head "
        f"(farthest from it: layer {farthest['layer']}, head {farthest['head']}, {farthest['entropy']:.3f} and "
        f"{farthest['entropy_uniform']:.3f} nats), so the history is little more than averaged."
    )


def _from_uniform(head: Mapping[str, Any]) -> float:
    """Relative distance of the entropy from that of equal shares."""
    return float(abs(head["entropy"] / head["entropy_uniform"] - 1))


def _with_targets_moved_on(batch: MultimodalBatch) -> tuple[MultimodalBatch, torch.Tensor]:
    """Give every row the target of the row before it; (B,) bool on the CPU: is it another item?"""
    target_B = batch.item_index[:, -1]
    other_B = target_B.roll(1)
    index = torch.cat([batch.item_index[:, :-1], other_B.unsqueeze(1)], dim=1)
    moved = MultimodalBatch(batch.context, batch.items, index, batch.is_real_BL)
    # By what the items are and not by their rows: the challenge's batch has a row for every position.
    is_other_B = torch.zeros_like(target_B, dtype=torch.bool)
    for column in batch.items.values():
        is_other_B |= (column[other_B] != column[target_B]).reshape(len(target_B), -1).any(dim=1)
    return moved, is_other_B.cpu()
