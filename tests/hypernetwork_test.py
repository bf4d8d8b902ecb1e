"""The hypernetwork: what it is at the start, and what it can tell apart."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import reference as reference_file
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editors import hypernetwork as hn
from instructedit_jax.editors import row_network
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.reference import ReferenceConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models.presets import preset
from instructedit_jax.training.reference_loop import listed_shapes

# Not in alphabetical order: a sorted dict must not renumber the modes.
SHAPES = {
  "2.up": (6, 10),
  "2.down": (10, 6),
  "3.up": (6, 10),
  "3.down": (10, 6),
}
ROWS = {"2": 5, "3": 2}  # the last block has fewer
B = 4
CONFIGS = [
  HypernetworkConfig(rank=4, sides=sides, shared=shared, statistics_per=per)
  for sides, shared, per in itertools.product(
    ("combined", "separate", "smaller", "x", "delta"),
    (True, False),
    ("shape", "matrix"),
  )
]
CONFIG = HypernetworkConfig(rank=4)
ACTIVATED = [
  HypernetworkConfig(rank=4, activation=activation, last_clamp=last)
  for activation in ("gelu", "tanh", "none")
  for last in (True, False)
]


def draw(seed: int = 0, batch: int = B, dtype=jnp.float32) -> Factors:
  rng = np.random.default_rng(seed)

  def normal(name, size):
    shape = (batch, ROWS[name[0]], size)
    return jnp.asarray(rng.normal(1, 2, shape), dtype)

  masks = {
    name: jnp.asarray(np.arange(batch * ROWS[name[0]]) % 4 != 3).reshape(
      batch, -1
    )
    for name in SHAPES
  }
  return Factors(
    x={name: normal(name, n) for name, (n, _) in SHAPES.items()},
    delta={name: normal(name, m) for name, (_, m) in SHAPES.items()},
    mask=masks,
  )


def make(config=CONFIG, seed: int = 0, dtype=jnp.float32):
  """Parameters as if trained, and statistics of other factors."""
  params, statistics = hn.init(jax.random.key(0), SHAPES, config, dtype)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), dtype),
    params,
  )
  seen = draw(9, dtype=dtype)
  return params, hn.fold_factors(statistics, SHAPES, config, seen)


def run(params, statistics, factors, config=CONFIG, modulation=None):
  seen = hn.by_matrix(statistics, SHAPES, config)
  white = hn.whiten(seen, config, factors)
  return hn.transform(params, SHAPES, config, white, modulation=modulation)


def close(a, b, atol=2e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=atol), a, b
  )


def total(factors: Factors):
  """A scalar that depends on every number differently."""
  leaves = jax.tree.leaves((factors.x, factors.delta))
  return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)


@pytest.mark.parametrize("config", CONFIGS + ACTIVATED, ids=str)
def test_the_start_is_the_identity_on_whitened_factors(config):
  params, statistics = hn.init(jax.random.key(0), SHAPES, config)
  statistics = hn.fold_factors(statistics, SHAPES, config, draw(1))
  factors = draw()
  seen = hn.by_matrix(statistics, SHAPES, config)
  wanted = hn.whiten(seen, config, factors)
  out = run(params, statistics, factors, config)
  jax.tree.map(np.testing.assert_array_equal, out, wanted)
  for name, mask in factors.mask.items():
    assert not np.asarray(out.x[name])[~mask].any()


@pytest.mark.parametrize("config", CONFIGS[:4] + ACTIVATED, ids=str)
def test_the_first_gradient_moves_u_and_not_v(config):
  params, statistics = hn.init(jax.random.key(0), SHAPES, config)
  statistics = hn.fold_factors(statistics, SHAPES, config, draw(1))
  gradients = jax.grad(lambda p: total(run(p, statistics, draw(), config)))(
    params
  )
  layers = [
    layer
    for sides in gradients.values()
    for side in sides.values()
    for layer in side
  ]
  for layer in layers:
    assert np.abs(layer["u"]).max() > 0
    assert np.abs(layer["bias"]).max() > 0
    assert not layer["v"].any()


def test_the_clamp_learns_from_zero():
  gradient = jax.grad(lambda p: row_network.clamp(p).sum())
  points = jnp.array([-1.0, -0.0, 0.0, 1.0])
  np.testing.assert_array_equal(gradient(points), [0, 1, 1, 1])
  np.testing.assert_array_equal(row_network.clamp(points), [0, 0, 0, 1])
  assert np.isnan(row_network.clamp(jnp.array(jnp.nan)))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("relu", lambda p: np.maximum(p, 0)),
    (
      "gelu",  # by its usual approximation
      lambda p: (
        p * (1 + np.tanh((2 / np.pi) ** 0.5 * (p + 0.044715 * p**3))) / 2
      ),
    ),
    ("tanh", np.tanh),
    ("none", lambda p: p),
  ],
)
def test_the_activation_is_the_named_one(name, expected, last):
  rng = np.random.default_rng(5)
  layer = {
    "v": rng.normal(size=(6, 3)),
    "u": rng.normal(size=(3, 6)),
    "bias": rng.normal(size=6),
  }
  rows = rng.normal(size=(2, 6))
  out = row_network.run(
    [jax.tree.map(jnp.float32, layer)],
    [jnp.float32(rows)],
    [jnp.ones(2, bool)],
    None,
    row_network.Form(residual=False, activation=name, last=last),
  )
  p = rows @ layer["v"] @ layer["u"] + layer["bias"]
  np.testing.assert_allclose(out[0], expected(p) if last else p, atol=1e-5)


@pytest.mark.parametrize(
  ("model", "millions"), [("gpt2-xl", 123.1), ("llama-2-7b", 232.6)]
)
def test_published_parameter_counts(model, millions):
  released = reference_file.get_config(model)
  recipe = dict(released.recipe)
  form = HypernetworkConfig(**recipe.pop("hypernetwork"))
  config = ReferenceConfig(hypernetwork=form, **recipe)
  assert config == ReferenceConfig()
  base = preset(model)
  shapes = listed_shapes(base, released.order)
  assert set(shapes) == set(base.editable)
  params, _ = jax.eval_shape(
    lambda key: hn.init(key, shapes, form), jax.random.key(0)
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_requests_and_matrices_do_not_mix(config):
  params, statistics = make(config)
  factors = draw()
  together = run(params, statistics, factors, config)
  alone = [
    run(params, statistics, jax.tree.map(lambda v, i=i: v[i], factors), config)
    for i in range(B)
  ]
  close(jax.tree.map(lambda *v: jnp.stack(v), *alone), together)
  changed = factors._replace(x={**factors.x, "3.up": factors.x["3.up"] + 1})
  other = run(params, statistics, changed, config)
  for name in ("2.up", "2.down", "3.down"):
    np.testing.assert_array_equal(other.x[name], together.x[name])


def test_masked_rows_come_out_as_zeros_and_poison_nothing():
  params, statistics = make()
  factors = draw()

  def poisoned(side):
    return {
      name: jnp.where(factors.mask[name][..., None], rows, jnp.nan)
      for name, rows in side.items()
    }

  bad = Factors(poisoned(factors.x), poisoned(factors.delta), factors.mask)
  close(run(params, statistics, bad), run(params, statistics, factors), 0)
  gradients = jax.grad(lambda p: total(run(p, statistics, bad)))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  statistics = hn.fold_factors(statistics, SHAPES, CONFIG, bad)
  assert all(np.isfinite(s).all() for s in jax.tree.leaves(statistics))


def test_modes_follow_the_listed_order_through_jit():
  assert list(SHAPES) != sorted(SHAPES)
  assert hn.members(SHAPES, CONFIG) == {
    "6x10": ("2.up", "3.up"),
    "10x6": ("2.down", "3.down"),
  }
  params, statistics = make()
  factors = draw()
  close(
    jax.jit(run)(params, statistics, factors), run(params, statistics, factors)
  )
  scale = params["6x10"]["both"][0]["scale"]
  params["6x10"]["both"][0]["scale"] = scale.at[1].add(1)
  before = make()[0]
  out, old = (run(p, statistics, factors) for p in (params, before))
  np.testing.assert_array_equal(out.x["2.up"], old.x["2.up"])
  assert np.abs(out.x["3.up"] - old.x["3.up"]).max() > 0


def test_modulation_is_a_change_of_scale_and_shift():
  params, statistics = make()
  factors, rng = draw(), np.random.default_rng(3)
  widths = hn.widths(SHAPES, CONFIG)

  def change(fill):
    return {
      network: {
        side: [(fill(width), fill(width)) for _ in range(CONFIG.depth)]
        for side, width in sides.items()
      }
      for network, sides in widths.items()
    }

  plain = run(params, statistics, factors)
  zero = change(lambda width: jnp.zeros((B, width)))
  close(run(params, statistics, factors, modulation=zero), plain, 0)
  drawn = change(
    lambda width: jnp.asarray(rng.normal(size=(B, width)), jnp.float32)
  )
  out = run(params, statistics, factors, modulation=drawn)
  for i in range(B):
    changed = jax.tree.map(lambda leaf: leaf, params)
    for network, layers in drawn.items():
      for layer, (scale, shift) in zip(
        changed[network]["both"], layers["both"], strict=True
      ):
        layer["scale"] += scale[i][None]
        layer["shift"] += shift[i][None]
    one = jax.tree.map(lambda v, i=i: v[i], factors)
    got = jax.tree.map(lambda v, i=i: v[i], out)
    close(got, run(changed, statistics, one))
  part = {"6x10": drawn["6x10"]}
  partly = run(params, statistics, factors, modulation=part)
  np.testing.assert_array_equal(partly.x["2.down"], plain.x["2.down"])
  assert np.abs(partly.x["2.up"] - plain.x["2.up"]).max() > 0


def test_folding_in_turn_hides_later_matrices():
  _, empty = hn.init(jax.random.key(0), SHAPES, CONFIG)
  factors = draw()
  last, seen = hn.fold_in_turn(empty, SHAPES, CONFIG, factors)
  close(last, hn.fold_factors(empty, SHAPES, CONFIG, factors), 0)
  kept = {name: int(mask.sum()) for name, mask in factors.mask.items()}
  assert seen["2.up"]["x"].count == kept["2.up"]
  assert seen["3.up"]["x"].count == kept["2.up"] + kept["3.up"]
  each = dataclasses.replace(CONFIG, statistics_per="matrix")
  _, empty = hn.init(jax.random.key(0), SHAPES, each)
  own = hn.fold_factors(empty, SHAPES, each, factors)
  assert own["3.up"]["x"].count == kept["3.up"]


def test_variants_leave_the_other_side_alone():
  factors = draw()
  for sides, untouched in (("x", "delta"), ("delta", "x")):
    config = HypernetworkConfig(rank=4, sides=sides)
    params, statistics = make(config)
    white = hn.whiten(hn.by_matrix(statistics, SHAPES, config), config, factors)
    out = run(params, statistics, factors, config)
    close(getattr(out, untouched), getattr(white, untouched), 0)
  smaller = hn.widths(SHAPES, HypernetworkConfig(sides="smaller"))
  assert smaller == {"6x10": {"x": 6}, "10x6": {"delta": 6}}


def test_xavier_has_no_residual_and_its_bounds():
  config = HypernetworkConfig(rank=4, init="xavier")
  params, statistics = hn.init(jax.random.key(0), SHAPES, config)
  layer = params["6x10"]["both"][0]
  bound = (6 / 20) ** 0.5
  assert 0.8 * bound < np.abs(layer["v"]).max() <= bound
  assert 0.8 * bound < np.abs(layer["u"]).max() / 2**0.5 <= bound
  out = run(params, statistics, draw(), config)
  assert min(leaf.min() for leaf in out.x.values()) >= 0


def test_the_scale_of_v():
  wide = {"0.up": (400, 600)}
  for scale, deviation in (("unit", 1.0), ("width", 1000**-0.5)):
    config = HypernetworkConfig(rank=50, v_scale=scale)
    params, _ = hn.init(jax.random.key(0), wide, config)
    found = float(params["400x600"]["both"][0]["v"].std())
    assert found == pytest.approx(deviation, rel=0.02)


def test_without_normalisation_factors_pass_unchanged():
  config = HypernetworkConfig(rank=4, normalize=False)
  params, statistics = hn.init(jax.random.key(0), SHAPES, config)
  factors = draw()
  out = run(params, statistics, factors, config)
  for name, mask in factors.mask.items():
    kept = np.where(np.asarray(mask)[..., None], factors.x[name], 0)
    np.testing.assert_array_equal(out.x[name], kept)


def test_half_precision_factors_are_transformed_in_float32():
  params, statistics = make()
  out = run(params, statistics, draw(dtype=jnp.bfloat16))
  assert {leaf.dtype for leaf in out.x.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
  "wrong",
  [
    {"sides": "both"},
    {"init": "id"},
    {"activation": "clamp"},
    {"rank": 0},
    {"depth": 0},
  ],
)
def test_wrong_values_are_named(wrong):
  with pytest.raises(UserError, match=f"hypernetwork.{next(iter(wrong))}"):
    HypernetworkConfig(**wrong)


@pytest.mark.parametrize("config", CONFIGS[:6:2] + ACTIVATED[::2], ids=str)
def test_gradients_equal_finite_differences(config):
  with jax.enable_x64(True):
    params, statistics = make(config, dtype=jnp.float64)
    factors = draw(dtype=jnp.float64)

    def loss(params):
      return total(run(params, statistics, factors, config))

    rng = np.random.default_rng(4)
    gradients = jax.grad(loss)(params)
    for _ in range(5):
      way = jax.tree.map(
        lambda v: jnp.asarray(rng.normal(size=v.shape)), params
      )
      slope = optax.tree.vdot(gradients, way)
      ahead, behind = (
        loss(optax.tree.add_scale(params, step, way)) for step in (1e-6, -1e-6)
      )
      np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, 1e-5)


def test_it_passes_through_every_transformation():
  params, statistics = make()
  factors = draw()
  one = functools.partial(run, params, statistics)
  wanted = one(factors)
  close(jax.vmap(one)(factors), wanted)
  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
  sharded = jax.shard_map(
    one, mesh=mesh, in_specs=P("data"), out_specs=P("data")
  )
  close(jax.jit(sharded)(factors), wanted)
  close(jax.pmap(one)(factors), wanted)
  divided = jax.device_put(factors, NamedSharding(mesh, P("data")))
  folded = jax.jit(lambda f: hn.fold_factors(statistics, SHAPES, CONFIG, f))(
    divided
  )
  close(folded, hn.fold_factors(statistics, SHAPES, CONFIG, factors), 1e-4)
  each = jax.vmap(jax.grad(lambda f: total(one(f)), allow_int=True))(factors)
  assert each.x["2.up"].shape == factors.x["2.up"].shape
