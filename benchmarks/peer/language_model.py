"""The base model in transformers, with our weights."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import transformers

from instructedit_jax.models import families
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel, save_hf

_LLAMA = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_GPT2 = {"up": "c_fc", "down": "c_proj"}
# (name, input, output) -> new output.
Tap = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Peer:
  """A transformers model and its editable matrices.

  Attributes:
    lm: the whole model, frozen.
    config: its shape, as ours.
    matrices: our name -> module, in listed order.
  """

  lm: Any
  config: DecoderConfig
  matrices: dict[str, torch.nn.Module]

  @property
  def device(self) -> torch.device:
    """Where its weights are."""
    return next(self.lm.parameters()).device

  def parameter(self, name: str) -> str:
    """The name that transformers gives a matrix."""
    wanted = self.matrices[name].weight
    return next(n for n, p in self.lm.named_parameters() if p is wanted)

  def update(self, name: str, delta: torch.Tensor) -> torch.Tensor:
    """W + delta, delta [n, m], in the module's own layout."""
    module: Any = self.matrices[name]
    linear = isinstance(module, torch.nn.Linear)
    return module.weight + (delta.T if linear else delta).to(
      module.weight.dtype
    )

  def hidden(
    self, tokens: torch.Tensor, tap: Tap | None = None
  ) -> torch.Tensor:
    """Input of the head, [B, T, D]; padding must stand on the right."""
    handles = []
    if tap is not None:
      for name, module in self.matrices.items():

        def hook(
          module: Any, x: Any, y: torch.Tensor, name: str = name
        ) -> torch.Tensor:
          del module
          return tap(name, x[0], y)

        handles.append(module.register_forward_hook(hook))
    try:
      body = self.lm.base_model
      return body(input_ids=tokens, use_cache=False).last_hidden_state
    finally:
      for handle in handles:
        handle.remove()

  def head(self, hidden: torch.Tensor) -> torch.Tensor:
    """Logits, float32."""
    return self.lm.get_output_embeddings()(hidden).float()


def load(model: LanguageModel) -> Peer:
  """Writes our weights in transformers' layout and loads them there."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model"
    save_hf(model, path)
    lm = transformers.AutoModelForCausalLM.from_pretrained(
      path, dtype="auto", attn_implementation="sdpa"
    )
    # Files are mapped into memory: read them before the folder goes.
    lm.load_state_dict({k: v.clone() for k, v in lm.state_dict().items()})
  return of(lm, model.config)


def read(folder: str | os.PathLike[str], config: DecoderConfig) -> Peer:
  """Loads a model that is on disk in transformers' layout."""
  lm = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype="auto", attn_implementation="sdpa"
  )
  return of(lm, config)


def version() -> str:
  """PyTorch's, and the threads it has."""
  return f"{torch.__version__}, {torch.get_num_threads()} threads"


def random(config: DecoderConfig, device: str, dtype: torch.dtype) -> Peer:
  """Random weights of a shape, made on the device."""
  fields = families.to_transformers(config)
  kind = fields.pop("model_type")
  shape = transformers.AutoConfig.for_model(kind, **fields)
  with torch.device(device):
    lm = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype)
  return of(lm, config)


def of(lm: Any, config: DecoderConfig) -> Peer:
  """A frozen model with its editable matrices found."""
  if not torch.cuda.is_available():
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  lm.eval().requires_grad_(False)
  gpt2 = config.family == "gpt2"
  blocks = lm.transformer.h if gpt2 else lm.model.layers
  names = _GPT2 if gpt2 else _LLAMA
  matrices = {}
  for name in config.editable:
    block, matrix = name.split(".")
    matrices[name] = getattr(blocks[int(block)].mlp, names[matrix])
  return Peer(lm, config, matrices)
