"""The history side of Transformer_DCNv2: tokens -> Transformer -> last outputs and their maximum."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from fuxictr_mm.config.keys import NonNegative, Positive, Share, check_arguments
from fuxictr_mm.errors import ConfigError

__all__ = ["HistoryEncoder", "PaddingMask", "Position"]

Position = Literal["none", "learned"]
PaddingMask = Literal["correct", "as_published"]

# On a CPU, rows of similar length are encoded this many at a time: less padding, and tensors that stay in cache.
CPU_ROWS = 32


class HistoryEncoder(nn.Module):
    """Encode a user's history as seen from the target item.

    Tokens are ``e_i = [item_i || target]`` (arXiv 2505.03543, section 3.1; TransAct, arXiv 2306.00248). The answer is
    the last ``first_k_cols`` encoder outputs, oldest first, padding zeroed, and behind them ``Linear(max over real
    outputs)``. An empty history attends to its last position (padding) only, so that no softmax runs over nothing.

    Args:
        item_dim: width D of one item.
        max_len: longest history, the number of learned positions.
        target_concat: put the target into every token (token width 2 D), otherwise tokens are the items (D).
        use_transformer: False passes the tokens on as they are.
        transformer_layers, num_heads, dim_feedforward, transformer_dropout: of ``nn.TransformerEncoder`` (post-norm).
        first_k_cols: how many of the latest outputs are kept side by side.
        concat_max_pool: append the projected maximum.
        position: ``"none"`` or ``"learned"`` (one vector per distance from the latest item; trimming changes nothing).
        padding_mask: ``"correct"`` ignores padding; ``"as_published"`` repeats the challenge code, which ignores and
            zeroes the real items instead. Only for reproducing published scores.

    Raises:
        ConfigError: ``num_heads`` does not divide the token width, or an argument has a wrong value.
    """

    @check_arguments
    def __init__(
        self,
        item_dim: int,
        max_len: Positive,
        *,
        target_concat: bool = True,
        use_transformer: bool = True,
        transformer_layers: Positive = 2,
        num_heads: Positive = 1,
        dim_feedforward: Positive = 256,
        transformer_dropout: Share = 0.2,
        first_k_cols: NonNegative = 16,
        concat_max_pool: bool = True,
        position: Position = "none",
        padding_mask: PaddingMask = "correct",
    ) -> None:
        super().__init__()
        token_dim = item_dim * (2 if target_concat else 1)
        if token_dim % num_heads:
            raise ConfigError(f"num_heads={num_heads} must divide the width of a history token, {token_dim}.")
        if first_k_cols + int(concat_max_pool) < 1:
            raise ConfigError("first_k_cols=0 with concat_max_pool=False leaves nothing of the history.")
        self.token_dim = token_dim
        self.target_concat = target_concat
        self.first_k_cols = first_k_cols
        self.concat_max_pool = concat_max_pool
        self.ignores_padding = padding_mask == "correct"
        self.out_dim = (first_k_cols + int(concat_max_pool)) * token_dim
        self.position = nn.Parameter(torch.empty(max_len, token_dim)) if position == "learned" else None
        self.transformer_encoder: nn.TransformerEncoder | None = None
        if use_transformer:
            layer = nn.TransformerEncoderLayer(
                token_dim, num_heads, dim_feedforward, transformer_dropout, batch_first=True
            )
            # Nested tensors would shorten the output to the longest history and only take right-padded input.
            self.transformer_encoder = nn.TransformerEncoder(layer, transformer_layers, enable_nested_tensor=False)
        if concat_max_pool:
            self.out_linear = nn.Linear(token_dim, token_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Called by the host's ``reset_parameters`` too."""
        if self.position is not None:
            nn.init.normal_(self.position, std=0.02)

    def forward(
        self,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        bias_BL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, D), (B, L, D), (B, L) bool -> (B, out_dim). L >= 1; padding rows of the history must be zero.

        ``bias_BL`` is added to the logits with which every query of a row looks at its positions, in all layers.
        """
        # A compiled or exported graph cannot follow the lengths of one batch.
        if torch.compiler.is_compiling() or target_BD.device.type != "cpu":
            return self.encode(target_BD, history_BLD, is_real_BL, bias_BL)
        # With the published mask padding takes part, so its amount must not change.
        if not self.ignores_padding or len(target_BD) <= CPU_ROWS:
            return self.encode(target_BD, history_BLD, is_real_BL, bias_BL)
        length = is_real_BL.shape[1]
        width_B = _reach(is_real_BL)
        order_B = width_B.argsort(stable=True)
        # Sorted once and split: rows taken chunk by chunk would each get a gradient as large as the batch.
        given = [target_BD, history_BLD, is_real_BL, width_B] + ([] if bias_BL is None else [bias_BL])
        parts = []
        for target, history, is_real, width, *bias in zip(*(part[order_B].split(CPU_ROWS) for part in given)):
            latest = slice(length - int(width[-1]), None)
            parts.append(self.encode(target, history[:, latest], is_real[:, latest], *(b[:, latest] for b in bias)))
        return torch.cat(parts)[order_B.argsort()]

    def present_slots(self, is_real_BL: torch.Tensor) -> torch.Tensor | None:
        """Return (B,) int: how many of the last ``first_k_cols`` outputs of a row may differ from zero; None: all."""
        return _reach(is_real_BL).clamp(max=self.first_k_cols) if self.ignores_padding else None

    def encode(
        self,
        target_BD: torch.Tensor,
        history_BLD: torch.Tensor,
        is_real_BL: torch.Tensor,
        bias_BL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What :meth:`forward` computes, for the rows as they are."""
        tokens_BLT = self.tokens(target_BD, history_BLD)
        ignored_BL = self.ignored_positions(is_real_BL)
        if self.transformer_encoder is not None:
            mask_BL = ignored_BL if bias_BL is None else bias_BL.masked_fill(ignored_BL, -torch.inf)
            tokens_BLT = self.transformer_encoder(tokens_BLT, src_key_padding_mask=mask_BL)
        parts = []
        if k := self.first_k_cols:
            # Padded first and cut then, so that nothing depends on L: a shorter history gets its absent, oldest slots
            # as zeros, and one exported graph serves every length.
            latest_BKT = nn.functional.pad(tokens_BLT, (0, 0, k, 0))[:, -k:]
            absent_BK = nn.functional.pad(ignored_BL, (k, 0), value=True)[:, -k:]
            parts.append(latest_BKT.masked_fill(absent_BK.unsqueeze(-1), 0.0).flatten(start_dim=1))
        if self.concat_max_pool:
            # -1e9 as in the host's TransAct: finite, so a maximum over it never turns into NaN.
            parts.append(self.out_linear(tokens_BLT.masked_fill(ignored_BL.unsqueeze(-1), -1e9).amax(dim=1)))
        return torch.cat(parts, dim=-1)

    def tokens(self, target_BD: torch.Tensor, history_BLD: torch.Tensor) -> torch.Tensor:
        """Return the (B, L, T) tokens that enter the encoder."""
        length = history_BLD.shape[1]
        if self.target_concat:
            tokens = torch.cat([history_BLD, target_BD.unsqueeze(1).expand(-1, length, -1)], dim=-1)
        else:
            tokens = history_BLD
        if self.position is not None:
            if length > self.position.shape[0]:
                raise ConfigError(
                    f"a history of {length} items meets position: learned with max_len={self.position.shape[0]}; "
                    "set max_len of the model and of the loader to the same number."
                )
            tokens = tokens + self.position[:length].flip(0)  # row 0 belongs to the latest item
        return tokens

    @contextmanager
    def giving_weights(self) -> Iterator[list[nn.Module]]:
        """During the block each attention layer gives ``(output, weights (B, H, L, L))``, for the rows as they are.

        Yields:
            the attention layers; none without a Transformer.
        """
        encoded = [] if self.transformer_encoder is None else self.transformer_encoder.layers
        layers: list[Any] = [layer.self_attn for layer in encoded]
        with ExitStack() as stack:
            # On a CPU, forward sorts rows by length and encodes them in parts.
            self.forward = self.encode  # type: ignore[method-assign]
            stack.callback(delattr, self, "forward")
            # torch's fast path calls no self_attn, or no hooks of it, depending on torch's version.
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            for layer in layers:
                stack.enter_context(layer.register_forward_pre_hook(_ask_for_weights, with_kwargs=True))
            yield layers

    def ignored_positions(self, is_real_BL: torch.Tensor) -> torch.Tensor:
        """Return (B, L) bool, True where attention and pooling must not look; the last position of a full row stays."""
        ignored_BL = ~is_real_BL if self.ignores_padding else is_real_BL
        keeps_one_B1 = ~ignored_BL.all(dim=1, keepdim=True)
        last_L = torch.arange(ignored_BL.shape[1], device=ignored_BL.device) == ignored_BL.shape[1] - 1
        return ignored_BL & (keeps_one_B1 | ~last_L)


def _reach(is_real_BL: torch.Tensor) -> torch.Tensor:
    """Return (B,) int: positions from the oldest real item to the end, 1 for an empty history."""
    first_real_B = is_real_BL.int().argmax(dim=1)
    return torch.where(is_real_BL.any(dim=1), is_real_BL.shape[1] - first_real_B, 1)


def _ask_for_weights(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}
