"""What multi-head attention multiplies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .call_recorder import Call


@dataclass(frozen=True)
class Attention:
    """One call of nn.MultiheadAttention or F.multi_head_attention_forward.

    Multiply-accumulates of the projections of queries, keys, values and results, of the scores (queries by keys) and of
    the values (scores by values). biases: additions of biases in the projections. gives_scores: whether it returns the
    scores too, for which PyTorch writes the products out. masked: whether it was given a mask.
    """

    projections: int
    scores: int
    values: int
    biases: int
    gives_scores: bool
    masked: bool

    @property
    def macs(self) -> int:
        return self.projections + self.scores + self.values


def dot_product_macs(call: Call) -> int:
    """F.scaled_dot_product_attention: scores and their product with the values, of every pair, masked or not."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    queries = call.output.numel() // value.shape[-1]
    return int(queries * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def multi_head_macs(call: Call) -> int:
    return attention_of(call).macs


def multi_head_biases(call: Call) -> int:
    return attention_of(call).biases


def attention_of(call: Call) -> Attention:
    """Read a call of nn.MultiheadAttention or of F.multi_head_attention_forward."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    module = call.module
    if isinstance(module, nn.MultiheadAttention):
        batch_first, bias_k, zero = module.batch_first, module.bias_k, module.add_zero_attn
        in_bias, out_bias = module.in_proj_bias, module.out_proj.bias
        needed, masks = 4, (call.argument(3, "key_padding_mask"), call.argument(5, "attn_mask"))
    else:
        batch_first, bias_k, zero = False, call.argument(7, "bias_k"), bool(call.argument(9, "add_zero_attn"))
        in_bias, out_bias = call.argument(6, "in_proj_bias"), call.argument(12, "out_proj_bias")
        needed, masks = 15, (call.argument(14, "key_padding_mask"), call.argument(16, "attn_mask"))
    width = query.shape[-1]
    outputs = _tokens(query) * width
    keys = key.shape[1 if batch_first and key.dim() == 3 else 0] + (bias_k is not None) + zero
    biased = (in_bias is not None) * (_tokens(query) + _tokens(key) + _tokens(value)) + (
        out_bias is not None
    ) * _tokens(query)
    return Attention(
        projections=width * (2 * outputs + key.numel() + value.numel()),
        scores=outputs * keys,
        values=outputs * keys,
        biases=width * biased,
        gives_scores=call.argument(needed, "need_weights") in (None, True),
        masked=any(mask is not None for mask in masks),
    )


def _tokens(tensor: Tensor) -> int:
    return tensor.numel() // tensor.shape[-1]
