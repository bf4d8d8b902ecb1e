"""GGUF files, written here with the format's own package."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import transformers

from instructedit_jax.errors import UserError
from instructedit_jax.models import presets, weights
from instructedit_jax.models.language_model import load_model, random_model
from instructedit_jax.models.tokenizer import from_gguf

gguf = pytest.importorskip("gguf")

_NAMES = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "input_layernorm": "attn_norm",
  "post_attention_layernorm": "ffn_norm",
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "model.layers": "blk",
}


@functools.cache
def make():
  return random_model(presets.preset("tiny-llama"))


def interleave(value: np.ndarray, heads: int) -> np.ndarray:
  """llama.cpp's order: row i of a head's first half, then of its second."""
  size = value.shape[0] // heads
  order = [
    head * size + half * size // 2 + i
    for head in range(heads)
    for i in range(size // 2)
    for half in (0, 1)
  ]
  return value[order]


def write(path, *, arch="llama", changes=None, tensors=None, kind=None):
  """A GGUF file of the tiny Llama; `changes` None-s out metadata."""
  model = make()
  config = model.config
  writer = gguf.GGUFWriter(path, arch)
  fields = {
    "embedding_length": config.width,
    "feed_forward_length": config.ffn,
    "block_count": config.blocks,
    "context_length": config.context,
    "attention.head_count": config.heads,
    "attention.head_count_kv": config.kv_heads,
    **(changes or {}),
  }
  for key, value in fields.items():
    if isinstance(value, str):
      writer.add_string(f"{arch}.{key}", value)
    elif isinstance(value, float):
      writer.add_float32(f"{arch}.{key}", value)
    elif value is not None:
      writer.add_uint32(f"{arch}.{key}", value)
  writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
  held = {name: build() for name, build in weights.theirs(config, model.params)}
  for name, value in {**held, **(tensors or {})}.items():
    if ".q_proj" in name and arch == "llama":
      value = interleave(value, config.heads)
    if ".k_proj" in name and arch == "llama":
      value = interleave(value, config.kv_heads)
    for theirs, short in _NAMES.items():
      name = name.replace(theirs, short)
    if kind is not None and value.ndim == 2:
      quantised = gguf.quants.quantize(value, kind)
      writer.add_tensor(name, quantised, raw_dtype=kind)
    else:
      writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path)


def test_weights_come_back(tmp_path):
  model = make()
  loaded = load_model(write(tmp_path / "m.gguf"), tokenizer=None)
  assert loaded.config == model.config
  assert loaded.fingerprint == model.fingerprint
  jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)


def test_another_architecture_is_not_permuted(tmp_path):
  model = make()
  biases = {
    f"model.layers.{i}.self_attn.{part}_proj.bias": np.full(n, 0.5, np.float32)
    for i in range(4)
    for part, n in (("q", 32), ("k", 16), ("v", 16))
  }
  path = write(tmp_path / "m.gguf", arch="qwen2", tensors=biases)
  loaded = load_model(path, tokenizer=None)
  assert loaded.config == dataclasses.replace(
    model.config, family="qwen2", qkv_bias=True
  )
  kernel = loaded.params["prefix_blocks"]["attention"]["q"]
  np.testing.assert_array_equal(
    kernel["kernel"][...],
    model.params["prefix_blocks"]["attention"]["q"]["kernel"][...],
  )
  assert (np.asarray(kernel["bias"][...]) == 0.5).all()


def test_quantised_tensors_are_close(tmp_path):
  model = make()
  path = write(tmp_path / "m.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
  loaded = load_model(path, tokenizer=None)

  # 127 steps up to the largest of 32 numbers, which is below 0.12 here.
  def close(left, right):
    np.testing.assert_allclose(left, right, atol=0.12 / 127)

  jax.tree.map(close, loaded.params, model.params)


def test_linear_rope_scaling(tmp_path):
  changes = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
  path = write(tmp_path / "m.gguf", changes=changes)
  scaling = load_model(path, tokenizer=None).config.rope_scaling
  assert (scaling.kind, scaling.factor) == ("linear", 4.0)


class Metadata:
  """A GGUF file as far as the tokenizer reads it."""

  name = "m.gguf"

  def __init__(self, **fields):
    self.fields = {
      "model": "gpt2",
      "pre": "smollm",
      "tokens": ["<s>", "<|im_end|>", "</s>", "Ġa", "12", *"abĠ12"],
      "token_type": [3, 3, 3, 1, 1, 1, 1, 1, 1, 1],
      "merges": ["Ġ a", "1 2"],
      "bos_token_id": 0,
      "eos_token_id": 2,
      **fields,
    }

  def field(self, key, default=None):
    return self.fields.get(key.removeprefix("tokenizer.ggml."), default)


def test_tokenizer_from_metadata():
  text = from_gguf(Metadata())
  # Digits stand alone, so the merge of 1 and 2 never happens.
  assert text.encode("a a12</s>") == [5, 3, 8, 9, 2]
  assert (text.bos_ids, text.eos_ids) == ((), {1, 2})
  assert text.decode([5, 3, 8, 9, 2]) == "a a12"
  marked = from_gguf(Metadata(pre="gpt-2", add_bos_token=True))
  assert marked.encode("a a12") == [0, 5, 3, 4]


def test_a_chat_template_goes_along(tmp_path):
  template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
  from_gguf(Metadata(**{"tokenizer.chat_template": template})).save(tmp_path)
  loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
  said = [{"role": "user", "content": "a"}]
  assert loaded.apply_chat_template(said, tokenize=False) == "a</s>"


@pytest.mark.parametrize("fields", [{"model": "llama"}, {"pre": "tekken"}])
def test_other_tokenizers_are_refused(fields):
  with pytest.raises(UserError, match=r"cannot be rebuilt .* tokenizer="):
    from_gguf(Metadata(**fields))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"arch": "mamba"}, "architecture 'mamba' is not supported"),
    ({"changes": {"block_count": None}}, "field 'llama.block_count'"),
    ({"changes": {"rope.scaling.type": "yarn"}}, "rope scaling 'yarn'"),
    (
      {"tensors": {"rope_freqs.weight": np.ones(4, np.float32)}},
      "rotary frequencies stored as a tensor",
    ),
    (
      {"tensors": {"blk.0.strange.weight": np.ones(4, np.float32)}},
      r"1 unknown \(blk.0.strange.weight\)",
    ),
  ],
)
def test_unsupported_files(options, message, tmp_path):
  path = write(tmp_path / "m.gguf", **options)
  with pytest.raises(UserError, match=message):
    load_model(path, tokenizer=None)
