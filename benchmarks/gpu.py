r"""A GPU: episodes a second on large shapes, and how near to its limit.

  python -m benchmarks.gpu --shapes=gpt2-xl --out=gpu.json
  python -m benchmarks.gpu --cpu --quick --shapes=tiny-llama   # a rehearsal

Random weights in the shape of a model, bfloat16 base, float32 editor. Training
reads prefix states that are there already, and the frozen blocks are not even
loaded; the rate at which those blocks make the states is measured by itself,
and both rates together give that of a run that keeps none. The peaks of matrix
products are measured on this very device. Where PyTorch can use it too, the
released step, one record at a time, runs beside ours, on random text of the
usual lengths. --trace=DIR keeps a profile for TensorBoard or Perfetto.

The allocator's peak counts all that ran in the process before: name one shape,
one batch and one rank to have that of a single configuration.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

from benchmarks import options, parts, rows, synthetic
from benchmarks.rows import Row
from benchmarks.timing import Times, side_by_side
from instructedit_jax import app
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder, families, presets
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.planning import flops
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch, BatchShape
from instructedit_jax.training.losses import LossConfig

_SHAPES = flags.DEFINE_list("shapes", ["gpt2-xl"], "Presets of models.")
_BATCHES = flags.DEFINE_list("batches", ["8", "32", "128"], "Episodes a step.")
_RANKS = flags.DEFINE_list("ranks", ["256", "1920"], "Of the hypernetwork.")
_CPU = flags.DEFINE_boolean("cpu", False, "Rehearse without a GPU.")
_PEER = flags.DEFINE_boolean("peer", True, "Run PyTorch where it can.")
_TRACE = flags.DEFINE_string("trace", None, "Folder for a profile.")
_SIDE = flags.DEFINE_integer("side", 8192, "Of the matrices multiplied.")
_KINDS = ("bfloat16", "float32")


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  # PyTorch needs memory, too, beside what JAX would take at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if jax.default_backend() == "cpu" and not _CPU.value:
    raise UserError(
      "no GPU: JAX sees only the CPU. Install requirements-cuda.txt on a"
      " machine that has one, or rehearse with --cpu --quick"
      " --shapes=tiny-llama"
    )
  peaks = {kind: peak(kind) for kind in _KINDS}
  found = [
    Row(f"matrix product, {kind}", value / 1e12, None, None, "TFLOP/s", {})
    for kind, value in peaks.items()
  ]
  for shape in _SHAPES.value:
    found += measure(shape, peaks)
  rows.finish(found, options.OUT.value)


def peak(kind: str) -> float:
  """FLOP/s of a large square product, the best of some."""
  side = min(_SIDE.value, 256) if options.QUICK.value else _SIDE.value
  a = jax.random.normal(jax.random.key(0), (side, side), kind)
  product = jax.jit(lambda a: a @ a)
  count = options.repeats(10)
  times = side_by_side({"product": lambda: product(a)}, count)["product"]
  return 2 * side**3 / min(times.walls)


def measure(name: str, peaks: dict[str, float]) -> list[Row]:
  """All rows of one shape."""
  peer = _released(name) if _PEER.value else None
  tokens = _prefix(name)
  model = load_model(
    f"random:{name}",
    suffix=options.SUFFIX.value,
    dtype="bfloat16",
    tokenizer=None,
    prefix=False,
  )
  found = [rows.rate(f"{name}, prefix", tokens, None, "tokens/s", shape=name)]
  for rank in map(int, _RANKS.value[:1] if _small() else _RANKS.value):
    for size in map(int, _BATCHES.value[:1] if _small() else _BATCHES.value):
      try:
        found += _train(name, model, rank, size, peaks, peer, tokens)
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        print(f"{name}, rank {rank}, batch {size}: does not fit this device")
  return found


def _small() -> bool:
  return bool(options.QUICK.value)


def _train(
  name: str,
  model: LanguageModel,
  rank: int,
  size: int,
  peaks: dict[str, float],
  peer: Times | None,
  tokens: Times,
) -> list[Row]:
  """One configuration: rate, share of the peak, memory, parts."""
  editor = EditorConfig(
    network=HypernetworkConfig(
      rank=rank, v_scale="width", statistics_per="matrix", last_clamp=False
    )
  )
  shape = BatchShape()
  batch = jax.device_put(synthetic.batch(model.config, shape, size))
  title = f"{name}, rank {rank}, batch {size}"
  times, facts = _step(model, editor, batch, size, title)
  config = {"shape": name, "rank": rank, "batch": size, "dtype": "bfloat16"}
  config |= facts
  label = f"{title}, training, prefix states there"
  found = [rows.rate(label, times, peer, "episodes/s", **config)]
  # Of an episode; those of its instruction are read once a run.
  needed = (shape.edit_tokens + shape.query_tokens) * size / tokens.rate
  both = Times(size, [wall + needed for wall in times.walls], times.cpus)
  label = f"{title}, training, prefix states made anew (sum)"
  found.append(rows.rate(label, both, peer, "episodes/s", **config))
  # The editor is float32 and most of the work: its peak is the fairer measure.
  for kind, most in peaks.items():
    label = f"{title}, share of the {kind} peak"
    share = facts["flops"] / times.wall / most
    found.append(Row(label, share, None, None, "of 1", config))
  for key, label in (
    ("compiled_bytes", "memory the compiler plans"),
    ("seen_bytes", "memory, the allocator's peak"),
  ):
    if facts[key]:
      gib = facts[key] / 2**30
      found.append(Row(f"{title}, {label}", gib, None, None, "GiB", config))
  found += parts.measure(
    model, editor, batch, options.repeats(10), f"{title}: "
  )
  return found


def _step(
  model: LanguageModel, editor: EditorConfig, batch: Batch, size: int, name: str
) -> tuple[Times, dict[str, Any]]:
  """Times of the whole step, and what compiler and device say about it."""
  rule = step_lib.optimizer(step_lib.OptimizerConfig(), 1000)
  step = step_lib.make_train_step(
    model.graph, editor, LossConfig(), model.config, rule
  )
  state = jax.jit(
    lambda: step_lib.init_state(jax.random.key(0), editor, model.config, rule)
  )()
  compiled = (
    jax.jit(step, donate_argnums=0).lower(state, model.params, batch).compile()
  )
  count = flops.count(flops.trace(step, state, model.params, batch))
  held = {"state": state}

  def once() -> Any:
    held["state"], metrics = compiled(held["state"], model.params, batch)
    return metrics

  work = {"step": float(size)}
  times = side_by_side({"step": once}, options.repeats(10), work, 2)["step"]
  with _profile(name.replace(", ", "-").replace(" ", "")):
    jax.block_until_ready(once())
  memory: Any = compiled.memory_analysis()
  seen = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
  return times, {
    "flops": count,
    "compiled_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    "seen_bytes": seen,
  }


def _profile(name: str) -> contextlib.AbstractContextManager[Any]:
  if not _TRACE.value:
    return contextlib.nullcontext()
  return jax.profiler.trace(f"{_TRACE.value}/{name}")


def _prefix(name: str) -> Times:
  """The frozen blocks, and the rest once without gradients: tokens."""
  model = load_model(
    f"random:{name}",
    suffix=options.SUFFIX.value,
    dtype="bfloat16",
    tokenizer=None,
  )
  count, length = (2, 64) if _small() else (64, 256)
  tokens = synthetic.tokens(model.config, count, length)
  places = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
  sequence = decoder.Sequence(places, jnp.ones_like(tokens))

  @jax.jit
  def run(params: Any) -> Any:
    model_ = nnx.merge(model.graph, params)
    hidden = model_.prefix(tokens, sequence)
    return hidden, model_.suffix(hidden, sequence)

  programs: dict[str, Callable[[], Any]] = {"run": lambda: run(model.params)}
  work = {"run": float(count * length)}
  return side_by_side(programs, options.repeats(10), work)["run"]


def _released(name: str) -> Times | None:
  """The released step in PyTorch, or None where PyTorch cannot run it."""
  try:
    import torch
  except ImportError:
    print("PyTorch is not installed: nothing to compare with")
    return None
  if _CPU.value:
    return _peer_step(name, "cpu", lambda: None)
  if not torch.cuda.is_available():
    print("PyTorch sees no GPU here: nothing to compare with")
    return None
  # As JAX multiplies float32 there: in TF32.
  torch.set_float32_matmul_precision("high")
  try:
    return _peer_step(name, "cuda", torch.cuda.synchronize)
  except torch.cuda.OutOfMemoryError:
    print(f"{name}: PyTorch's step does not fit this device")
    return None
  finally:
    torch.cuda.empty_cache()


def _peer_step(name: str, device: str, wait: Callable[[], None]) -> Times:
  """Times of the released step on random text of the usual lengths."""
  import torch

  from benchmarks.peer import language_model
  from benchmarks.peer.published import Published, Text

  config = families.with_suffix(presets.preset(name), options.SUFFIX.value)
  peer = language_model.random(config, device, torch.bfloat16)
  form = reference.ReferenceConfig(HypernetworkConfig(rank=options.RANK.value))
  state = reference.init(jax.random.key(0), metalearned.shapes(config), form)
  published = Published(peer, form, state)

  def tokens(*shape: int) -> Any:
    return torch.randint(1, config.vocab, shape, device=device)

  def ones(*shape: int) -> Any:
    return torch.ones(shape, dtype=torch.long, device=device)

  # As on real records: 45 tokens an edit, three locality prompts of 15.
  edit = tokens(1, 45), ones(1, 45), tokens(1, 3)
  text = Text(*edit, tokens(3, 15), ones(3, 15), ones(3, 3))

  def once() -> None:
    published.step(text)
    wait()

  return side_by_side({"step": once}, options.repeats(10), warm=2)["step"]


if __name__ == "__main__":
  app.run(main)
