r"""A GPU: episodes a second on large shapes, and how near to its limit.

  python -m benchmarks.gpu --shapes=gpt2-xl,llama-2-7b --out=gpu.json
  python -m benchmarks.gpu --cpu --shapes=tiny-llama --batches=2   # a rehearsal

Random weights in the shape of a model, bfloat16 base, float32 editor, prefix
states given (the frozen blocks are not even loaded; --prefix adds the rate at
which they make such states). The matrix-product peak is measured on this very
device. Where PyTorch can use it too, the released step, one record at a time,
runs beside ours. --trace=DIR keeps a profile for TensorBoard or Perfetto.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

from benchmarks import rows, synthetic
from benchmarks.rows import Row
from benchmarks.timing import Times, side_by_side
from instructedit_jax import app
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder, families, presets
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import BatchShape
from instructedit_jax.training.losses import LossConfig

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_SHAPES = flags.DEFINE_list("shapes", ["gpt2-xl"], "Presets of models.")
_BATCHES = flags.DEFINE_list("batches", ["8", "32", "128"], "Episodes a step.")
_RANKS = flags.DEFINE_list("ranks", ["256", "1920"], "Of the hypernetwork.")
_SUFFIX = flags.DEFINE_integer("suffix", 3, "Editable blocks.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Measured steps.")
_CPU = flags.DEFINE_boolean("cpu", False, "Rehearse without a GPU.")
_PREFIX = flags.DEFINE_boolean("prefix", False, "Measure the prefix, too.")
_PEER = flags.DEFINE_boolean("peer", True, "Run PyTorch where it can.")
_TRACE = flags.DEFINE_string("trace", None, "Folder for a profile.")
_SIDE = flags.DEFINE_integer("side", 8192, "Of the matrices multiplied.")


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  if jax.default_backend() == "cpu" and not _CPU.value:
    raise UserError(
      "no GPU: JAX sees only the CPU. Install requirements-cuda.txt on a"
      " machine that has one, or rehearse with --cpu --shapes=tiny-llama"
    )
  peaks = {kind: _peak(kind) for kind in ("bfloat16", "float32")}
  found = [
    Row(f"matrix product, {kind}", value / 1e12, None, None, "TFLOP/s", {})
    for kind, value in peaks.items()
  ]
  for shape in _SHAPES.value:
    found += _shape(shape, peaks)
  rows.finish(found, _OUT.value)


def _peak(kind: str) -> float:
  """FLOP/s of a large square product."""
  side = min(_SIDE.value, 1024) if _CPU.value else _SIDE.value
  a = jax.random.normal(jax.random.key(0), (side, side), kind)
  product = jax.jit(lambda a: a @ a)
  times = side_by_side({"product": lambda: product(a)}, _REPEATS.value)
  return 2 * side**3 / min(times["product"].walls)


def _shape(name: str, peaks: dict[str, float]) -> list[Row]:
  model = load_model(
    f"random:{name}",
    suffix=_SUFFIX.value,
    dtype="bfloat16",
    tokenizer=None,
    prefix=_PREFIX.value,
  )
  peer = _released(name)
  found = []
  for rank in map(int, _RANKS.value):
    for size in map(int, _BATCHES.value):
      try:
        found += _train(name, model, rank, size, peaks, peer)
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        print(f"{name}, rank {rank}, batch {size}: does not fit this device")
  if _PREFIX.value:
    found.append(_prefix(name, model))
  return found


def _train(
  name: str,
  model: LanguageModel,
  rank: int,
  size: int,
  peaks: dict[str, float],
  peer: Times | None,
) -> list[Row]:
  """One configuration: rate, share of the peak, memory."""
  editor = EditorConfig(
    network=HypernetworkConfig(
      rank=rank, v_scale="width", statistics_per="matrix", last_clamp=False
    )
  )
  rule = step_lib.optimizer(step_lib.OptimizerConfig(), 1000)
  step = step_lib.make_train_step(
    model.graph, editor, LossConfig(), model.config, rule
  )
  state = jax.jit(
    lambda: step_lib.init_state(jax.random.key(0), editor, model.config, rule)
  )()
  batch = jax.device_put(synthetic.batch(model.config, BatchShape(), size))
  compiled = (
    jax.jit(step, donate_argnums=0).lower(state, model.params, batch).compile()
  )
  cost = compiled.cost_analysis() or {}
  held = {"state": state}

  def once() -> Any:
    held["state"], metrics = compiled(held["state"], model.params, batch)
    return metrics

  times = side_by_side({"step": once}, _REPEATS.value, {"step": size}, 2)[
    "step"
  ]
  with _profile(f"{name}-{rank}-{size}"):
    jax.block_until_ready(once())
  flops = float(cost.get("flops", 0.0)) / times.wall
  config = {"shape": name, "rank": rank, "batch": size, "dtype": "bfloat16"}
  title = f"{name}, rank {rank}, batch {size}"
  found = [rows.rate(f"{title}, training", times, peer, "episodes/s", **config)]
  # The editor is float32, and dominates: its own peak is the fairer measure.
  for kind, peak in peaks.items():
    label = f"{title}, share of the {kind} peak"
    found.append(Row(label, flops / peak, None, None, "of 1", config))
  memory = compiled.memory_analysis()
  planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  seen = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
  config = {**config, "compiled_bytes": planned, "seen_since_start": seen}
  # The allocator's peak is the process's: earlier shapes count, too.
  found.append(
    Row(f"{title}, memory", planned / 2**30, None, None, "GiB", config)
  )
  return found


def _profile(name: str) -> contextlib.AbstractContextManager[Any]:
  if not _TRACE.value:
    return contextlib.nullcontext()
  return jax.profiler.trace(f"{_TRACE.value}/{name}")


def _prefix(name: str, model: LanguageModel) -> Row:
  """Tokens a second through the frozen blocks."""
  count, length = (2, 64) if _CPU.value else (32, 256)
  tokens = synthetic.tokens(model.config, count, length)
  places = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
  sequence = decoder.Sequence(places, jnp.ones_like(tokens))
  run = jax.jit(
    lambda params: nnx.merge(model.graph, params).prefix(tokens, sequence)
  )
  programs: dict[str, Callable[[], Any]] = {"run": lambda: run(model.params)}
  work = {"run": float(count * length)}
  times = side_by_side(programs, _REPEATS.value, work)["run"]
  return rows.rate(f"{name}, prefix", times, None, "tokens/s", shape=name)


def _released(name: str) -> Times | None:
  """The released step in PyTorch on random text of the usual lengths."""
  if not _PEER.value:
    return None
  try:
    import torch

    from benchmarks.peer import language_model
    from benchmarks.peer.published import Published, Text
  except ImportError:
    print("PyTorch is not installed: nothing to compare with")
    return None
  if not (torch.cuda.is_available() or _CPU.value):
    print("PyTorch sees no GPU here: nothing to compare with")
    return None
  device = "cpu" if _CPU.value else "cuda"
  config = families.with_suffix(presets.preset(name), _SUFFIX.value)
  peer = language_model.random(config, device, torch.bfloat16)
  form = reference.ReferenceConfig(HypernetworkConfig())
  state = reference.init(jax.random.key(0), metalearned.shapes(config), form)
  published = Published(peer, form, state)

  def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, config.vocab, shape, device=device)

  def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long, device=device)

  # As measured on the real data: 45 tokens an edit, 3 locality prompts of 15.
  text = Text(
    tokens(1, 45), ones(1, 45), tokens(1, 3), tokens(3, 15), ones(3, 15),
    ones(3, 3),
  )  # fmt: skip

  def once() -> None:
    published.step(text)
    if device == "cuda":
      torch.cuda.synchronize()

  times = side_by_side({"step": once}, _REPEATS.value, warm=2)["step"]
  del published, peer
  if device == "cuda":
    torch.cuda.empty_cache()
  return times


if __name__ == "__main__":
  app.run(main)
