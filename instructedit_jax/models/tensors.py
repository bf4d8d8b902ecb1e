"""Which tensors of a transformers checkpoint are which of our parameters."""

import dataclasses
from collections.abc import Iterator

from instructedit_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where one of our parameters lies in a transformers checkpoint.

  Attributes:
    path: ours, blocks numbered from the bottom: "blocks.3.mlp.up.kernel".
    name: theirs, e.g. "model.layers.3.mlp.up_proj.weight".
    transposed: theirs is [outputs, inputs], as torch's Linear.
    part: (index, sizes) where theirs holds several of ours side by side on its
      last axis, of these sizes; None where it is one of ours.
  """

  path: str
  name: str
  transposed: bool = False
  part: tuple[int, tuple[int, ...]] | None = None


_LLAMA_BLOCK = (
  ("attention.q", "self_attn.q_proj"),
  ("attention.k", "self_attn.k_proj"),
  ("attention.v", "self_attn.v_proj"),
  ("attention.out", "self_attn.o_proj"),
  ("mlp.gate", "mlp.gate_proj"),
  ("mlp.up", "mlp.up_proj"),
  ("mlp.down", "mlp.down_proj"),
)


def checkpoint_table(config: DecoderConfig) -> list[Tensor]:
  """Every parameter of a decoder with its place in a checkpoint."""
  if config.family == "gpt2":
    table = list(_gpt2(config))
  else:
    table = list(_llama(config))
  if not config.tied:
    table.append(Tensor("head.kernel", "lm_head.weight", True))
  return table


def _gpt2(config: DecoderConfig) -> Iterator[Tensor]:
  """GPT-2: Conv1D kernels lie as ours; q, k and v share one of them."""
  yield Tensor("embedding", "transformer.wte.weight")
  yield Tensor("positions", "transformer.wpe.weight")
  keys = config.kv_heads * config.head_dim
  sizes = (config.heads * config.head_dim, keys, keys)
  for i in range(config.blocks):
    ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
    for at, part in enumerate("qkv"):
      for kind, suffix in (("kernel", "weight"), ("bias", "bias")):
        yield Tensor(
          f"{ours}.attention.{part}.{kind}",
          f"{theirs}.attn.c_attn.{suffix}",
          part=(at, sizes),
        )
    for mine, yours in (
      ("attention.out", "attn.c_proj"),
      ("mlp.up", "mlp.c_fc"),
      ("mlp.down", "mlp.c_proj"),
    ):
      yield Tensor(f"{ours}.{mine}.kernel", f"{theirs}.{yours}.weight")
      yield Tensor(f"{ours}.{mine}.bias", f"{theirs}.{yours}.bias")
    for mine, yours in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
      yield Tensor(f"{ours}.{mine}.scale", f"{theirs}.{yours}.weight")
      yield Tensor(f"{ours}.{mine}.bias", f"{theirs}.{yours}.bias")
  yield Tensor("final_norm.scale", "transformer.ln_f.weight")
  yield Tensor("final_norm.bias", "transformer.ln_f.bias")


def _llama(config: DecoderConfig) -> Iterator[Tensor]:
  """Llama and its kin: torch Linear weights, [outputs, inputs]."""
  biased = {
    "attention.q": config.qkv_bias,
    "attention.k": config.qkv_bias,
    "attention.v": config.qkv_bias,
    "attention.out": config.out_bias,
  }
  yield Tensor("embedding", "model.embed_tokens.weight")
  for i in range(config.blocks):
    ours, theirs = f"blocks.{i}", f"model.layers.{i}"
    for mine, yours in _LLAMA_BLOCK:
      yield Tensor(f"{ours}.{mine}.kernel", f"{theirs}.{yours}.weight", True)
      if biased.get(mine, config.mlp_bias):
        yield Tensor(f"{ours}.{mine}.bias", f"{theirs}.{yours}.bias")
    norms = [
      ("attention_norm", "input_layernorm"),
      ("mlp_norm", "post_attention_layernorm"),
    ]
    if config.qk_norm:
      norms.append(("attention.q_norm", "self_attn.q_norm"))
      norms.append(("attention.k_norm", "self_attn.k_norm"))
    for mine, yours in norms:
      yield Tensor(f"{ours}.{mine}.scale", f"{theirs}.{yours}.weight")
  yield Tensor("final_norm.scale", "model.norm.weight")
