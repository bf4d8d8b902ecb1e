"""The shape of a decoder, for the GPT-2 and Llama families alike."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched beyond the trained context.

  Attributes:
    kind: "linear", "llama3" or "yarn".
    factor: the stretch.
    original_context: the context the base frequencies were trained with.
    low_freq_factor, high_freq_factor: the band edges of "llama3".
    beta_fast, beta_slow: the band edges of "yarn".
    attention_factor: what "yarn" multiplies cos and sin by.
  """

  kind: str
  factor: float
  original_context: int = 0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Everything that decides a decoder's parameters and its arithmetic.

  Attributes:
    vocab, width, ffn, blocks, heads, kv_heads, head_dim, context: sizes.
    norm: "layer" (GPT-2) or "rms" (Llama).
    norm_eps: added to the variance.
    positions: "learned" (GPT-2) or "rotary" (Llama).
    rope_theta, rope_scaling: rotary base and stretch.
    activation: "gelu_new", "gelu", "relu" or "silu".
    gated: a gate matrix beside the up matrix (SwiGLU).
    qkv_bias, out_bias, mlp_bias: which linear maps have a bias.
    qk_norm: an RMS norm on every query and key head (Qwen3).
    window: sliding attention window in tokens, or None.
    tied: the head is the transposed embedding.
    suffix: how many of the last blocks are editable; the others are scanned.
    family: the transformers model type this came from.
  """

  vocab: int
  width: int
  ffn: int
  blocks: int
  heads: int
  kv_heads: int
  head_dim: int
  context: int
  norm: str = "rms"
  norm_eps: float = 1e-5
  positions: str = "rotary"
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  activation: str = "silu"
  gated: bool = True
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  window: int | None = None
  tied: bool = True
  suffix: int = 3
  family: str = "llama"

  @property
  def first_editable(self) -> int:
    """Index of the first block of the suffix."""
    return self.blocks - self.suffix

  @property
  def mlp_matrices(self) -> tuple[str, ...]:
    """Short names of one block's MLP matrices, in the order of use."""
    return ("gate", "up", "down") if self.gated else ("up", "down")

  @property
  def editable(self) -> tuple[str, ...]:
    """Names of every matrix a tap sees, e.g. "27.gate"."""
    return tuple(
      f"{block}.{matrix}"
      for block in range(self.first_editable, self.blocks)
      for matrix in self.mlp_matrices
    )

  def matrix_shape(self, name: str) -> tuple[int, int]:
    """(inputs n, outputs m) of an editable matrix."""
    if name.endswith(".down"):
      return self.ffn, self.width
    return self.width, self.ffn
