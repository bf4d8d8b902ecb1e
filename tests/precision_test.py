"""Half-precision weights, and logits made a few positions at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructedit_jax.editing import head
from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import score
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.evaluation.predictions import predict
from instructedit_jax.models.language_model import load_model
from instructedit_jax.models.layers import product, summed
from instructedit_jax.training import losses, step
from tests import tiny_parallel

# A bfloat16 number has 8 bits: rounding changes it by at most this share.
ROUNDING = 2.0**-8


def _relative(ours, theirs) -> float:
  ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_with_half_a_kernel_errs_by_one_rounding(transposed):
  x_key, k_key, y_key = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(x_key, (2, 5, 64))
  shape = (48, 64) if transposed else (64, 48)
  kernel = jax.random.normal(k_key, shape).astype(jnp.bfloat16)
  dy = jax.random.normal(y_key, (2, 5, 48))
  multiply = functools.partial(product, transposed=transposed)
  found, back = jax.vjp(multiply, x, kernel)
  wide, wide_back = jax.vjp(multiply, x, kernel.astype(jnp.float32))
  plain = np.asarray(kernel, float)
  plain = np.asarray(x, float) @ (plain.T if transposed else plain)
  np.testing.assert_allclose(wide, plain, rtol=1e-5, atol=1e-5)
  assert found.dtype == jnp.float32
  assert 0 < _relative(found, wide) < ROUNDING
  (dx, dk), (wide_dx, wide_dk) = back(dy), wide_back(dy)
  assert (dx.dtype, dk.dtype) == (jnp.float32, jnp.bfloat16)
  assert 0 < _relative(dx, wide_dx) < ROUNDING
  # The kernel's own gradient is rounded once more, to its type.
  assert 0 < _relative(dk, wide_dk) < 2 * ROUNDING


def test_a_product_of_halves_is_summed_in_float32():
  x_key, k_key = jax.random.split(jax.random.key(0))
  x = jax.random.normal(x_key, (3, 4096)).astype(jnp.bfloat16)
  kernel = jax.random.normal(k_key, (4096, 5)).astype(jnp.bfloat16)
  found = product(x, kernel)
  assert found.dtype == jnp.bfloat16
  wide = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  # Rounded once, at the end: no 4,096 roundings add up.
  np.testing.assert_allclose(np.asarray(found, float), wide, rtol=ROUNDING)
  traced = jax.make_jaxpr(product)(x, kernel)
  sums = [e for e in _equations(traced.jaxpr) if "dot" in e.primitive.name]
  assert [e.outvars[0].aval.dtype for e in sums] == [jnp.float32]


@pytest.mark.parametrize("transposed", [False, True])
def test_no_product_transposes_a_kernel(transposed):
  # A CPU would make a copy, at the price of the product or more.
  x = jnp.ones((3, 64), jnp.bfloat16)
  kernel = jnp.ones((48, 64) if transposed else (64, 48), jnp.bfloat16)

  def slope(x):
    return jax.grad(lambda x: product(x, kernel, transposed=transposed).sum())(
      x
    )

  equations = list(_equations(jax.make_jaxpr(slope)(x).jaxpr))
  assert "dot_general" in [e.primitive.name for e in equations]
  turned = [e for e in equations if e.primitive.name == "transpose"]
  assert kernel.shape not in [e.invars[0].aval.shape for e in turned]


def test_what_a_half_precision_model_is_edited_with_errs_by_one_rounding():
  keys = jax.random.split(jax.random.key(1), 3)
  x = jax.random.normal(keys[0], (2, 5, 64)).astype(jnp.bfloat16)
  u = jax.random.normal(keys[1], (2, 7, 64)).astype(jnp.bfloat16)
  found = summed("btn,brn->btr", x, u.astype(jnp.float32))
  assert found.dtype == jnp.bfloat16
  plain = np.asarray(x, float) @ np.asarray(u, float).swapaxes(1, 2)
  # Once, when the sum is done: sums near 0 are as exact as their terms.
  np.testing.assert_allclose(
    np.asarray(found, float), plain, rtol=ROUNDING, atol=1e-4
  )
  # A dense update keeps its own precision.
  update = jax.random.normal(keys[2], (2, 64, 48)) * 1e-3
  y = jnp.zeros((2, 5, 48), jnp.bfloat16)
  found = DenseEdit({"0.up": update}).tap()("0.up", x, y)
  assert found.dtype == jnp.bfloat16
  plain = np.asarray(x, float) @ np.asarray(update, float)
  np.testing.assert_allclose(
    np.asarray(found, float), plain, rtol=ROUNDING, atol=1e-6
  )


def _equations(jaxpr):
  """All equations of a program, those of inner programs included."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"),
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from _equations(inner)


@pytest.fixture(scope="module")
def half():
  return load_model("random:tiny-llama", suffix=2, dtype="bfloat16")


def test_a_step_never_widens_a_weight(half):
  """Copies in float32 would take twice the memory of all editable blocks."""
  run = tiny_parallel.config("1x1")
  rule = step.optimizer(run.optimizer, run.steps)
  state = jax.eval_shape(
    lambda: step.init_state(jax.random.key(0), run.editor, half.config, rule)
  )
  program = step.make_train_step(
    half.graph, run.editor, run.loss, half.config, rule
  )
  traced = jax.make_jaxpr(program)(
    state, half.params, tiny_parallel.batch(half)
  )
  matrices = {
    leaf.shape
    for leaf in jax.tree.leaves(half.params)
    if leaf.dtype == jnp.bfloat16
  }
  matrices |= {shape[::-1] for shape in matrices}
  seen = widened = 0
  for equation in _equations(traced.jaxpr):
    kinds = [v.aval for v in equation.invars if hasattr(v, "aval")]
    seen += equation.primitive.name == "dot_general" and any(
      kind.dtype == jnp.bfloat16 and kind.shape in matrices for kind in kinds
    )
    if equation.primitive.name == "convert_element_type":
      widened += (
        kinds[0].dtype == jnp.bfloat16
        and kinds[0].shape in matrices
        and equation.outvars[0].aval.dtype == jnp.float32
      )
  assert seen > 0
  assert widened == 0


def test_an_edit_of_nothing_changes_nothing_in_half_precision(half):
  """However rows are laid: near ties must not be turned by rounding."""
  nothing = {
    name: jnp.zeros((1, size))
    for name, (size, _) in metalearned.shapes(half.config).items()
  }
  back = {
    name: jnp.zeros((1, size))
    for name, (_, size) in metalearned.shapes(half.config).items()
  }
  sequences = [
    score(half.text, f"question {i} of a few is", answer, context=1024)
    for i in range(9)
    for answer in ("a", "b c d", "e f g h i")
  ]
  edit = LowRankEdit(nothing, back)
  (found,) = predict(half, PrefixCache(half), [sequences], edit)
  for each in found:
    np.testing.assert_array_equal(each.before, each.after)
    np.testing.assert_allclose(each.log_before, each.log_after, atol=1e-6)
    np.testing.assert_allclose(each.divergence, 0, atol=1e-6)


def test_edits_of_a_half_precision_model_are_close(half):
  """The bound that docs/scaling.md states; 0.5 % is the weights' rounding."""
  whole = load_model("random:tiny-llama", suffix=2)
  config = dataclasses.replace(
    tiny_parallel.config("1x1").editor, method="mend"
  )
  request = [Request("The sky is", "green")]
  edits = []
  for model in (half, whole):
    params, statistics = metalearned.init(
      jax.random.key(0), config, model.config
    )
    editor = TrainedEditor(
      config, params, statistics, model.fingerprint, model.config.suffix
    )
    edits.append(editor.propose(model, request).dense())
  for name, update in edits[1].items():
    assert 0 < _relative(edits[0][name], update) < 0.02, name


def test_the_whole_loss_in_turns():
  """As many turns as the logits' size asks for make no difference."""
  model = load_model("random:tiny-llama", suffix=2)
  batch = jax.tree.map(jnp.asarray, tiny_parallel.batch(model))
  decode = nnx.merge(model.graph, model.params)
  config = tiny_parallel.config("1x1")

  class Nothing:
    def tap(self):
      return lambda name, x, y: y

  def loss(limit):
    return losses.outer_loss(decode, Nothing(), batch, config.loss, limit)

  whole, turns = loss(head.LOGIT_BYTES), loss(1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, turns
  )
