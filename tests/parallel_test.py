"""Meshes, rules and reports; nothing large is compiled."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instructedit_jax import parallel
from instructedit_jax.errors import UserError
from instructedit_jax.models import presets, weights
from instructedit_jax.parallel import MeshConfig, ShardingConfig, make_mesh
from instructedit_jax.parallel import report as report_lib
from instructedit_jax.training import config as config_lib


def test_meshes_take_all_devices():
  assert dict(make_mesh().shape) == {"data": 4, "model": 1}
  assert dict(make_mesh(MeshConfig(model=2)).shape) == {"data": 2, "model": 2}
  assert dict(parallel.local_mesh(make_mesh(MeshConfig(1, 4))).shape) == {
    "data": 1,
    "model": 4,
  }
  one = make_mesh(MeshConfig(1, 1), 3, jax.devices()[:1])
  assert one.size == 1


@pytest.mark.parametrize(
  ("config", "batch", "message"),
  [
    (
      MeshConfig(model=3),
      None,
      r"config\.mesh: data=all model=3 does not fit 4 devices; data=4 model=1,"
      r" data=2 model=2 or data=1 model=4 would",
    ),
    (MeshConfig(2, 1), None, "data=2 model=1 does not fit 4 devices"),
    (MeshConfig(8, 2), None, "data=8 model=2 does not fit"),
    (
      MeshConfig(),
      6,
      r"config\.batch_size = 6 does not divide among the 4 devices of mesh axis"
      r" data; 4 or 8 would",
    ),
    (MeshConfig(model=2), 3, "2 or 4 would"),
    (MeshConfig(), 3, "; 4 would"),
  ],
)
def test_what_does_not_fit_says_what_would(config, batch, message):
  with pytest.raises(UserError, match=message):
    make_mesh(config, batch)


@pytest.mark.parametrize("bad", [{"model": 0}, {"data": 0}, {"data": -2}])
def test_mesh_sizes_are_checked(bad):
  with pytest.raises(UserError, match=r"config\.mesh\."):
    MeshConfig(**bad)


def _specs(preset: str, mesh, **options):
  config = presets.preset(preset)
  _, shapes = weights.abstract(config)
  rules = ShardingConfig(**options).weights_for(config, mesh)
  at = parallel.shardings(shapes, rules, mesh, "weights", exact=False)
  flat = jax.tree_util.tree_flatten_with_path(at)[0]
  return {weights.tree_path(k): tuple(s.spec) for k, s in flat}


def test_llama_is_divided_over_both_axes():
  mesh = make_mesh(MeshConfig(2, 2))
  specs = _specs("llama-2-7b", mesh, fsdp=True)
  assert specs["embedding"] == ("model", "data")
  assert specs["head.kernel"] == ("data", "model")
  assert specs["prefix_blocks.attention.q.kernel"] == (None, "data", "model")
  assert specs["suffix_blocks.0.attention.out.kernel"] == ("model", "data")
  assert specs["suffix_blocks.2.mlp.gate.kernel"] == ("data", "model")
  assert specs["suffix_blocks.2.mlp.down.kernel"] == ("model", "data")
  assert specs["final_norm.scale"] == ()
  specs = _specs("llama-2-7b", mesh)
  assert specs["prefix_blocks.mlp.up.kernel"] == (None, None, "model")


def test_odd_sizes_are_left_whole_by_our_own_rules():
  mesh = make_mesh(MeshConfig(2, 2))
  specs = _specs("gpt2-xl", mesh, fsdp=True)
  # 50257 tokens and 25 heads divide by nothing.
  assert specs["embedding"] == (None, "model")
  assert specs["prefix_blocks.attention.q.kernel"] == (None, "data", None)
  assert specs["prefix_blocks.attention.q.bias"] == (None, None)
  assert specs["prefix_blocks.mlp.up.bias"] == (None, "model")
  assert specs["suffix_blocks.1.mlp.down.bias"] == ()


def test_rules_given_are_taken_at_their_word():
  mesh = make_mesh(MeshConfig(1, 4))
  tree = {"a": {"kernel": jnp.zeros((6, 8))}, "b": jnp.zeros(())}
  rules = (("kernel$", ("model",)), (".*", ()))
  with pytest.raises(
    UserError,
    match=r"rule 'kernel\$' divides axis 0 of a\.kernel, 6 long, among the 4"
    r" devices of model; it divides among 1, 2, 3\.",
  ):
    parallel.shardings(tree, rules, mesh, "config.sharding.weights")
  both = (("kernel", ("model",)), ("^a", ()), (".*", ()))
  with pytest.raises(UserError, match=r"a\.kernel matches 'kernel' and '\^a'"):
    parallel.shardings(tree, both, mesh, "w")
  long = (("kernel", (None, None, "model")), (".*", ()))
  with pytest.raises(UserError, match=r"names 3 axes, a\.kernel has 2: \[6, 8"):
    parallel.shardings(tree, long, mesh, "w")
  fine = parallel.shardings(
    tree, ((".*", (None, ("data", "model"))),), mesh, "w"
  )
  assert tuple(fine["a"]["kernel"].spec) == (None, ("data", "model"))
  assert tuple(fine["b"].spec) == ()
  assert parallel.divides(fine)


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    ((("a", ("data",)),), r"last rule must be \('\.\*'"),
    ((("(", ()), (".*", ())), "'\\(' is no regex"),
    (((".*", ("rows",)),), "each axis is None, 'data'"),
    (((".*", ("data", "data")),), "none is used twice"),
    (((".*", "data"),), r"is no \(regex, axes\) rule"),
    (("abc",), r"is no \(regex, axes\) rule"),
  ],
)
def test_rules_are_checked(rules, message):
  with pytest.raises(UserError, match=message):
    ShardingConfig(weights=rules)


def test_the_configuration_sets_mesh_and_rules():
  raw = config_lib.default()
  assert raw.mesh.to_dict() == {"data": -1, "model": 1}
  raw.mesh.model = 2
  raw.sharding.weights = ((".*", ("data",)),)
  raw.sharding.fsdp = True
  raw.remat = "dots"
  made = config_lib.from_config(raw)
  assert made.mesh == MeshConfig(-1, 2)
  assert made.sharding.weights == ((".*", ("data",)),)
  raw.remat = "some"
  with pytest.raises(
    UserError, match=r"config\.remat: 'some' is none of none,"
  ):
    config_lib.from_config(raw)


def test_gathered_keeps_what_is_not_over_data():
  mesh = make_mesh(MeshConfig(2, 2))
  at = [
    NamedSharding(mesh, PartitionSpec(*spec))
    for spec in [("data", "model"), (("data", "model"),), (None,), ()]
  ]
  specs = [tuple(s.spec) for s in parallel.gathered(at)]
  assert specs == [(None, "model"), ("model",), (None,), ()]


def test_a_compiled_program_is_reported():
  mesh = make_mesh(MeshConfig(2, 2))
  rows = NamedSharding(mesh, PartitionSpec("data", "model"))
  whole = NamedSharding(mesh, PartitionSpec())
  x = jax.device_put(jnp.ones((8, 16)), rows)
  w = jax.device_put(
    jnp.ones((16, 32)), NamedSharding(mesh, PartitionSpec("model"))
  )
  product = jax.jit(
    lambda x, w: x @ w, out_shardings=NamedSharding(mesh, PartitionSpec("data"))
  )
  found = parallel.compiled_report(product.lower(x, w).compile())
  assert found["devices"] == 4
  assert found["argument_bytes"] == 4 * (4 * 8 + 8 * 32)
  assert found["output_bytes"] == 4 * 4 * 32
  # Each pair along `model` adds up its halves of [4, 32].
  size = 4 * 4 * 32
  assert found["collectives"] == {
    "all-reduce": {"count": 1, "bytes": size, "sent": size}
  }
  assert found["flops"] >= found["product_flops"] == 2 * 4 * 8 * 32
  alone = jax.jit(jnp.sum, out_shardings=whole).lower(jnp.ones(3)).compile()
  assert parallel.compiled_report(alone)["collective_bytes"] == 0


_PROGRAM = """
HloModule jit_f, is_scheduled=true, entry_computation_layout={()->f32[]}, replica_count=1, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %r = f32[4,8]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %r)
}

ENTRY %main (q: bf16[2,8]) -> f32[] {
  %q = bf16[2,8]{1,0} parameter(0)
  %g = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(%q), replica_groups=[2,4]<=[8], dimensions={0}
  %d = bf16[8,8]{1,0} all-gather-done(%g)
  %w = (s32[], f32[4,8]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %h = f32[1,8]{1,0} reduce-scatter(%y), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %c = f32[] constant(0)
}
"""  # noqa: E501


def test_traffic_is_counted_as_often_as_it_runs():
  found = report_lib.collective_bytes(_PROGRAM.strip())
  assert found == {
    "all-gather": {"count": 1, "bytes": 128, "sent": 96},
    "all-reduce": {"count": 5, "bytes": 5 * 128, "sent": 5 * 128},
    "reduce-scatter": {"count": 1, "bytes": 256, "sent": 224},
  }


_BRANCHES = """
HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=2

%none (p: f32[4,8]) -> f32[4,8] {
  ROOT %p = f32[4,8]{1,0} parameter(0)
}

%some (q: f32[4,8]) -> f32[4,8] {
  %q = f32[4,8]{1,0} parameter(0)
  %m = f32[4,4]{1,0} dot(%q, %q), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %r = f32[4,8]{1,0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

%body (b: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %b = (s32[], f32[4,8]{1,0}) parameter(0)
  %c = f32[4,8]{1,0} conditional(%i, %x, %x), branch_computations={%none, %some}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %c)
}

ENTRY %main (a: f32[4,8]) -> f32[] {
  %w = (s32[], f32[4,8]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %z = f32[] constant(0)
}
"""  # noqa: E501


def test_a_branch_counts_as_its_larger_side():
  text = _BRANCHES.strip()
  assert report_lib.product_flops(text) == 3 * 2 * 8 * 4 * 4
  sent = {"count": 3, "bytes": 3 * 128, "sent": 3 * 128}
  assert report_lib.collective_bytes(text) == {"all-reduce": sent}


def test_products_of_a_compiled_loop_are_all_counted():
  def loop(x, w):
    def turn(total, rows):
      made = jax.lax.cond(
        rows[0, 0] > 0, lambda: (rows @ w).sum(), lambda: total
      )
      return total + made, None

    return jax.lax.scan(turn, jnp.zeros(()), x.reshape(4, 2, 16))[0]

  given = jnp.ones((8, 16)), jnp.ones((16, 32))
  found = parallel.compiled_report(jax.jit(loop).lower(*given).compile())
  assert found["product_flops"] == 2 * 8 * 16 * 32
