"""Does the history get looked at? The attention that a trained model pays to each history item.

The weights are taken from torch's and the host's own layers by hooks while the model scores a batch, so no forward pass
is written a second time. Apart from the models because nothing here is needed to train or to score.

Axis letters: B = rows, H = heads, Q = queries, L = history length.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fuxictr.pytorch.layers import DIN_Attention

from fuxictr_mm.batch import MultimodalBatch
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.models import DIN_SE_MHTA, Transformer_DCNv2

__all__ = ["HistoryAttention", "attention_summary", "history_attention", "uniform_attention_warning"]

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

        Of each query and not of :meth:`shares`: queries that look at one item each, all at different ones, leave equal
        shares. n real items have an entropy of ln n exactly if every query weighs all of them alike.
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


def history_attention(model: Any, inputs: Any) -> HistoryAttention:
    """Score a batch and keep the attention weights.

    Args:
        model: ``Transformer_DCNv2`` or ``DIN_SE_MHTA``; put into eval mode, otherwise left as it was.
        inputs: what the model's ``forward`` takes, with or without labels.

    Raises:
        ConfigError: the model has no attention over the history.
    """
    if not isinstance(model, DIN_SE_MHTA | Transformer_DCNv2):
        raise ConfigError(
            f"model {type(model).__name__}: attention can be read from DIN_SE_MHTA and Transformer_DCNv2; explain an "
            "experiment with one of them."
        )
    batch = MultimodalBatch.from_inputs(inputs).to(model.device)
    model.eval()
    with torch.no_grad(), _listening(model) as seen:
        score = model.forward(batch)["y_pred"]
    is_real_BL = batch.is_real_BL.cpu()
    if not is_real_BL.shape[1]:  # the model puts one position of padding there
        is_real_BL = is_real_BL.new_zeros(len(is_real_BL), 1)
    if isinstance(model, Transformer_DCNv2):
        is_query_BQ = is_real_BL
    else:
        is_query_BQ = is_real_BL.any(dim=1, keepdim=True)
        if isinstance(model.attention_layer, DIN_Attention):
            seen = [_din_weights(seen[0], is_real_BL, model.attention_layer.use_softmax)]
    return HistoryAttention(tuple(seen), is_query_BQ, is_real_BL, score.double().cpu().reshape(-1))


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


@contextmanager
def _listening(model: DIN_SE_MHTA | Transformer_DCNv2) -> Iterator[list[torch.Tensor]]:
    """Collect what the attention layers give during the block, in float64 on the CPU."""
    seen: list[torch.Tensor] = []

    def keep(values: torch.Tensor) -> None:
        seen.append(values.double().cpu())

    with ExitStack() as stack:
        if (compiled := model.__dict__.pop("score", None)) is not None:  # a compiled graph calls no hooks
            stack.callback(setattr, model, "score", compiled)
        if isinstance(model, Transformer_DCNv2):
            encoder = model.transformer_encoder
            if encoder.transformer_encoder is None:
                raise ConfigError(
                    "use_transformer: False: this Transformer_DCNv2 has no attention over the history; explain an "
                    "experiment that has it."
                )
            # The rows as they are: on a CPU, forward sorts them by length and encodes them in parts.
            encoder.forward = encoder.encode  # type: ignore[method-assign]
            stack.callback(delattr, encoder, "forward")
            # torch's fast path calls no self_attn, or no hooks of it, depending on torch's version.
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            for layer in encoder.transformer_encoder.layers:
                attention: Any = layer.self_attn
                stack.enter_context(attention.register_forward_pre_hook(_ask_for_weights, with_kwargs=True))
                stack.enter_context(attention.register_forward_hook(lambda _, __, output: keep(output[1])))
        elif isinstance(model.attention_layer, DIN_Attention):
            scores = model.attention_layer.attention_layer
            stack.enter_context(scores.register_forward_hook(lambda _, __, output: keep(output)))
        else:
            dot = model.attention_layer.dot_attention
            stack.enter_context(dot.register_forward_hook(lambda _, __, output: keep(output[1])))
        yield seen


def _ask_for_weights(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}


def _din_weights(scores: torch.Tensor, is_real_BL: torch.Tensor, use_softmax: bool) -> torch.Tensor:
    """(B L, 1) scores of DIN's MLP -> (B, 1, 1, L) shares; padding has none, as in the host's layer."""
    scores_BL = scores.view(is_real_BL.shape)
    if use_softmax:
        weights_BL = scores_BL.masked_fill(~is_real_BL, -1e9).softmax(dim=1)
    else:
        absolute_BL = scores_BL.abs().masked_fill(~is_real_BL, 0.0)
        weights_BL = absolute_BL / absolute_BL.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return weights_BL[:, None, None]


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
