"""Reads GGUF files, llama.cpp's own format, into float32."""

import os
import re
from typing import Any

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.models.config import DecoderConfig, RopeScaling

# Architectures whose tensors carry transformers' Llama names one to one. The
# rows of q and k are permuted for "llama" only.
_ARCHITECTURES = ("llama", "qwen2", "qwen3")

_BLOCK = {
  "attn_norm": "input_layernorm",
  "ffn_norm": "post_attention_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_WHOLE = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}


class GgufFile:
  """A GGUF file as a checkpoint with transformers' tensor names.

  Attributes:
    name: the file's path.
    metadata: every field but the vocabulary-sized ones, decoded.

  Raises:
    UserError: the file is absent, damaged or of an unknown architecture.
  """

  def __init__(self, path: str | os.PathLike[str]):
    # Imported late: only this format needs the package.
    import gguf

    self.name = str(path)
    if not os.path.isfile(path):
      raise UserError(f"{path}: no such GGUF file")
    try:
      self._reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
      raise UserError(
        f"{path}: not a readable GGUF file ({error}); download it again"
      ) from error
    self._dequantize = gguf.quants.dequantize
    self.architecture = self.field("general.architecture", "")
    if self.architecture not in _ARCHITECTURES:
      raise UserError(
        f"{path}: GGUF architecture {self.architecture!r} is not supported;"
        f" supported are {', '.join(_ARCHITECTURES)}"
      )
    self._tensors = {
      _theirs(tensor.name): tensor for tensor in self._reader.tensors
    }
    if "rope_freqs.weight" in self._tensors:
      raise UserError(
        f"{path}: rotary frequencies stored as a tensor are not supported;"
        " load the transformers checkpoint of this model instead"
      )
    self.config = self._config()

  def field(self, key: str, default: Any = None) -> Any:
    """A metadata value; `default` where the file does not have it."""
    field = self._reader.get_field(key)
    return default if field is None else field.contents()

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, torch order ([outputs, inputs])."""
    return {
      name: tuple(int(size) for size in tensor.shape[::-1])
      for name, tensor in self._tensors.items()
    }

  def read(self, name: str) -> np.ndarray:
    """One tensor in float32, its rows in transformers' order."""
    tensor = self._tensors[name]
    value = self._dequantize(tensor.data, tensor.tensor_type)
    value = value.astype(np.float32, copy=False)
    value = value.reshape(tuple(int(size) for size in tensor.shape[::-1]))
    if self.architecture == "llama":
      if ".q_proj." in name:
        return _half_split(value, self.config.heads)
      if ".k_proj." in name:
        return _half_split(value, self.config.kv_heads)
    return value

  def _config(self) -> DecoderConfig:
    arch = self.architecture
    width = self._required(f"{arch}.embedding_length")
    heads = self._required(f"{arch}.attention.head_count")
    shapes = self.shapes()
    names = set(shapes)
    head_dim = self.field(f"{arch}.attention.key_length", width // heads)
    return DecoderConfig(
      vocab=shapes["model.embed_tokens.weight"][0],
      width=width,
      ffn=self._required(f"{arch}.feed_forward_length"),
      blocks=self._required(f"{arch}.block_count"),
      heads=heads,
      kv_heads=self.field(f"{arch}.attention.head_count_kv", heads),
      head_dim=head_dim,
      context=self._required(f"{arch}.context_length"),
      # Stored in float32; the shortest decimal is what was meant (1e-5).
      norm_eps=float(
        str(
          np.float32(self._required(f"{arch}.attention.layer_norm_rms_epsilon"))
        )
      ),
      rope_theta=float(self.field(f"{arch}.rope.freq_base", 10000.0)),
      rope_scaling=self._rope_scaling(),
      qkv_bias="model.layers.0.self_attn.q_proj.bias" in names,
      out_bias="model.layers.0.self_attn.o_proj.bias" in names,
      mlp_bias="model.layers.0.mlp.up_proj.bias" in names,
      qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
      tied="lm_head.weight" not in names,
      family=arch,
    )

  def _required(self, key: str) -> Any:
    value = self.field(key)
    if value is None:
      raise UserError(f"{self.name}: metadata field {key!r} is missing")
    return value

  def _rope_scaling(self) -> RopeScaling | None:
    key = f"{self.architecture}.rope.scaling"
    kind = self.field(f"{key}.type", "none")
    if kind == "none":
      return None
    if kind == "linear":
      return RopeScaling("linear", float(self._required(f"{key}.factor")))
    raise UserError(f"{self.name}: rope scaling {kind!r} is not supported")


def _theirs(name: str) -> str:
  """A GGUF tensor name in transformers' words; unknown ones as they are."""
  if name in _WHOLE:
    return _WHOLE[name]
  match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
  if match and match[2] in _BLOCK:
    return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"
  return name


def _half_split(value: np.ndarray, heads: int) -> np.ndarray:
  """Undoes llama.cpp's order of the rows of q and k.

  It interleaves the two halves of each head, so that rotary pairs lie side by
  side; transformers and this package pair row i with row i + head_dim / 2.
  """
  pairs = value.reshape(heads, -1, 2, *value.shape[1:])
  return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(value.shape)
