"""Work at real places alone, and the head's losses there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing import head, places
from instructedit_jax.editors import row_network
from instructedit_jax.training import losses


def test_pools_are_one_devices_own_rows():
  assert [places.pool_size(b, 1) for b in (1, 6, 8, 16, 20, 7, 11)] == [
    *(1, 6, 8, 8, 5, 7, 1)
  ]
  assert [places.pool_size(b, 4) for b in (1, 4, 8, 64, 30)] == [1, 1, 2, 8, 1]


@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("turn", [1, 3, 5, 64])
def test_at_real_is_the_function_where_the_mask_holds(pool, turn):
  rng = np.random.default_rng(turn)
  mask = rng.random((4, 7)) < 0.4
  mask[2] = False
  x = jnp.asarray(rng.normal(size=(4, 7, 3)).astype(np.float32))
  n = jnp.asarray(rng.integers(0, 9, (4, 7)))
  seen = []

  def function(x, n):
    seen.append(x.shape)
    return {"sum": x.sum(-1) + n, "twice": 2 * x, "odd": n % 2 == 1}

  run = functools.partial(places.at_real, function, turn=turn, pool=pool)
  found = jax.jit(run)(mask, x, n)
  np.testing.assert_allclose(
    found["sum"], np.where(mask, x.sum(-1) + n, 0), rtol=1e-6
  )
  np.testing.assert_array_equal(
    found["twice"], np.where(mask[..., None], 2 * x, 0)
  )
  np.testing.assert_array_equal(found["odd"], mask & (n % 2 == 1))
  assert all(shape[0] == 4 // pool and shape[1] <= turn for shape in seen)


def test_turns_without_a_place_are_passed_over():
  mask = np.zeros((2, 30), bool)
  mask[0, 20:23] = mask[1, :4] = True
  calls = []

  def function(x):
    jax.debug.callback(lambda: calls.append(1))
    return x

  jax.block_until_ready(
    places.at_real(function, mask, jnp.ones((2, 30)), turn=5, pool=2)
  )
  jax.effects_barrier()
  assert len(calls) == 2  # 7 places, 5 at a time


@pytest.mark.parametrize("share", [0.1, 0.45, 0.6, 1.0])
def test_at_first_is_the_function_with_its_gradient(share):
  rng = np.random.default_rng(0)
  mask = jnp.asarray(rng.random((4, 7)) < share)
  x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 7, 3), 3))
  cost = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)

  def sums(w, apart):
    def function(x):
      return jnp.tanh(x * w[None, None]).sum(-1) + 1

    if apart:
      found = places.at_first(function, mask, x, pool=2)
    else:
      found = jnp.where(mask, function(x), 0)
    return (found * cost).sum(), found

  run = jax.jit(jax.value_and_grad(sums, has_aux=True), static_argnums=1)
  (_, plain), gradient = run(w, False)
  (_, found), other = run(w, True)
  np.testing.assert_allclose(found, plain, rtol=1e-6)
  np.testing.assert_allclose(other, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_pooled_rows_go_through_the_network_as_all_do(monkeypatch, shared):
  rng = np.random.default_rng(1)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  counts = (3, 5) if shared else (5,)
  layers = [{"v": normal(6, 2), "u": normal(2, 6), "bias": normal(6)}]
  layers.append({name: normal(*v.shape) for name, v in layers[0].items()})
  for layer in layers if shared else ():
    layer |= {"scale": normal(2, 6), "shift": normal(2, 6)}
  changes = [(normal(4, 6), normal(4, 6)) for _ in layers]
  rows = [normal(4, count, 6) for count in counts]
  masks = [jnp.asarray(rng.random((4, count)) < 0.4) for count in counts]

  form = row_network.Form(residual=True, activation="relu", last=False)

  def total(layers, changes, pool):
    monkeypatch.setattr(places, "pool_size", lambda _: pool)
    out = row_network.run(layers, rows, masks, changes, form)
    kept = [
      jnp.where(mask[..., None], each, 0)
      for each, mask in zip(out, masks, strict=True)
    ]
    return sum((each**2).sum() for each in kept), kept

  run = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
  whole, pooled = run(layers, changes, 1), run(layers, changes, 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    whole,
    pooled,
  )


def _sides():
  """Hidden states [4, 7, 6], their other arguments, and a head [6, 11]."""
  keys = jax.random.split(jax.random.key(0), 6)
  base, edited = jax.random.normal(keys[0], (2, 4, 7, 6))
  weight = jax.random.uniform(keys[1], (4, 7))
  labels = jax.random.randint(keys[2], (4, 7), 0, 11)
  avoid = jax.random.bernoulli(keys[3], 0.3, (4, 7))
  mask = jax.random.bernoulli(keys[5], 0.6, (4, 7))
  matrix = jax.random.normal(keys[4], (6, 11))
  return base, edited, weight, labels, avoid, mask, matrix


@pytest.mark.parametrize("most", [1, 3, 7, 28])
def test_head_losses_equal_plain_ones_and_their_gradients(most):
  base, edited, weight, labels, avoid, mask, matrix = _sides()
  share = jnp.where(mask, weight, 0)

  def plain(edited):
    kept, _, agree = losses.keep_loss(base @ matrix, edited @ matrix)
    asked, _, right = losses.edit_loss(edited @ matrix, labels, avoid)
    kept, asked = ((x * share).sum(-1) for x in (kept, asked))
    total = (kept * jnp.arange(4) + 2 * asked).sum()
    return total, (kept, asked, agree & mask, right & mask)

  def apart(edited):
    call = functools.partial(
      head.head_loss,
      lambda h: h @ matrix,
      logit_bytes=most * 4 * 11,
    )
    kept, agree = call(
      lambda e, b: losses.keep_loss(b @ matrix, e), edited, weight, mask, base
    )
    asked, right = call(losses.edit_loss, edited, weight, mask, labels, avoid)
    total = (kept * jnp.arange(4) + 2 * asked).sum()
    return total, (kept, asked, agree, right)

  (_, whole), gradient = jax.value_and_grad(plain, has_aux=True)(edited)
  (_, parts), other = jax.jit(jax.value_and_grad(apart, has_aux=True))(edited)
  for one, two in zip(whole, parts, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-6)


def test_answer_loss_is_that_of_a_softmax():
  *_, labels, _, mask, matrix = _sides()
  edited = _sides()[1]
  del mask
  loss, slope, first = head.answer_loss(edited @ matrix, labels)
  log_p = jax.nn.log_softmax(edited @ matrix)
  np.testing.assert_allclose(
    loss, -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0], rtol=1e-5
  )
  np.testing.assert_allclose(
    slope, jnp.exp(log_p) - jax.nn.one_hot(labels, 11), atol=1e-6
  )
  np.testing.assert_array_equal(first, log_p.argmax(-1))
  alone = head.label_loss(edited @ matrix, labels)
  np.testing.assert_array_equal(alone[0], loss)
  np.testing.assert_array_equal(alone[1], slope)
  assert alone[2] == ()


def test_turns_take_less_memory():
  """64 places of 4,096 tokens, all at once and 4 at a time."""
  matrix = jnp.ones((8, 4096))
  hidden = jnp.ones((1, 64, 8))
  labels, weight = jnp.zeros((1, 64), jnp.int32), jnp.ones((1, 64))

  def total(hidden, most):
    loss, _ = head.head_loss(
      lambda x: x @ matrix,
      *(head.answer_loss, hidden, weight, weight > 0, labels),
      logit_bytes=most * 4 * 4096,
    )
    return loss.sum()

  def temporary(most):
    program = jax.jit(jax.grad(functools.partial(total, most=most)))
    compiled = program.lower(hidden).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4) < temporary(40) / 4
