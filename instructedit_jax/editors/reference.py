"""The published training recipe, run as it was released, mistakes included.

MEND and InstructEdit (arXiv 2402.16123) as the authors' PyTorch code runs them,
so that its numbers can be reproduced and anything better be compared with it.
What is odd is kept in this file and explained where it stands; nothing else in
the package has a switch for it. The shared parts (decoder, factors,
hypernetwork, statistics, edits) are the same as everywhere.

Oddities: positions run over the padding; the locality loss looks one token too
late; the edit is scored on the very prompt that made it; the edit learning
rates start by climbing the loss, and the optimizer meant for them does nothing;
a matrix is whitened before later ones of its shape are counted.

Not reproduced: the released code fails where fewer than two rows were ever
seen, and forgets its statistics when training resumes.

Axes: B strings of the edit, C of the locality batch, T tokens, L label columns,
A answer columns, M editable matrices, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.factors import Factors, all_rows, probe
from instructedit_jax.editing.rows import Array
from instructedit_jax.editors import hypernetwork, torch_adam
from instructedit_jax.editors.hypernetwork import HypernetworkConfig, Shapes
from instructedit_jax.errors import require_least
from instructedit_jax.models.decoder import Decoder, Sequence, Tap
from instructedit_jax.models.likeliest import likeliest

# What the frozen blocks make of strings: the residual stream in front of the
# first editable matrix, [B or C, T, D], and where the tokens stand.
Read = tuple[jax.Array, Sequence]


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
  """The released values.

  Attributes:
    hypernetwork: the form of the network.
    edit_lr: where every matrix's learned edit learning rate starts. Positive,
      although the update is *added*: until training has turned the sign, edits
      climb the loss they are meant to lower.
    lr: Adam's learning rate, for the network and the edit learning rates.
    lr_lr: meant for the edit learning rates; has no effect (see `micro_step`).
    cedit, cloc: weights of the edit and the locality loss.
    accumulate: micro-steps an optimizer update averages.
    grad_clip: largest norm of all gradients together.
  """

  hypernetwork: HypernetworkConfig = dataclasses.field(
    default_factory=HypernetworkConfig
  )
  edit_lr: float = 1e-4
  lr: float = 1e-6
  lr_lr: float = 1e-4
  cedit: float = 0.1
  cloc: float = 1.0
  accumulate: int = 2
  grad_clip: float = 100.0

  def __post_init__(self):
    require_least(self, "config.recipe.", accumulate=1)


class Batch(NamedTuple):
  """One micro-step's strings, padded on the left.

  Attributes:
    tokens, mask: int32 [B, T], the edit prompt with its answer.
    labels: int32 [B, L], the answer's tokens, tokenised alone; -100 = ignored.
      With `same`, L = T and every real token is a label.
    loc_tokens, loc_mask: int32 [C, T], strings that must not change.
    answer_mask: int32 [C, A], the mask of their answers, tokenised alone; with
      `same`, loc_mask.
    same: bool [B] for the sentiment task, whether a string has the wanted
      sentiment; None for facts.
    fill, loc_fill: int32 [], columns in front of `tokens` and `loc_tokens` that
      the released code would not have: batches are padded further, to one of
      few shapes, and their positions are counted from behind these columns.
      None is 0.
  """

  tokens: Array
  mask: Array
  labels: Array
  loc_tokens: Array
  loc_mask: Array
  answer_mask: Array
  same: Array | None = None
  fill: Array | None = None
  loc_fill: Array | None = None


class State(NamedTuple):
  """Everything a training run carries on.

  Attributes:
    params: {"networks": hypernetwork parameters, "edit_lrs": [M]}.
    statistics: of the hypernetwork.
    gradients: accumulated since the last update; as `params`.
    adam: optimizer state.
    step: int32 [], micro-steps taken.
    norm: [], norm of the accumulated gradients before clipping.
  """

  params: Any
  statistics: hypernetwork.Statistics
  gradients: Any
  adam: torch_adam.Adam
  step: jax.Array
  norm: jax.Array


class Report(NamedTuple):
  """What happened in a micro-step; unused parts cost nothing under jit.

  Attributes:
    factors: of the edit request, before whitening.
    seen: by matrix, the statistics it was whitened with.
    pseudo: the transformed factors, without the edit learning rate.
    edit: the edit.
    logits: [B or C, T, V] by name: inner, base_loc, post_edit, post_loc.
    scalars: losses and accuracies by name.
    gradients: of the total loss of this micro-step, as `State.params`.
  """

  factors: Factors
  seen: hypernetwork.Statistics
  pseudo: Factors
  edit: LowRankEdit
  logits: dict[str, jax.Array]
  scalars: dict[str, jax.Array]
  gradients: Any


def init(
  key: jax.Array,
  shapes: Shapes,
  config: ReferenceConfig,
  dtype: Any = jnp.float32,
) -> State:
  """A run's first state; `shapes` are the editable matrices in their order."""
  networks, statistics = hypernetwork.init(
    key, shapes, config.hypernetwork, dtype
  )
  edit_lrs = jnp.full((len(shapes),), config.edit_lr, dtype)
  params = {"networks": networks, "edit_lrs": edit_lrs}
  return start(params, statistics)


def start(params: Any, statistics: hypernetwork.Statistics) -> State:
  """A run's first state from given parameters."""
  zeros = jax.tree.map(jnp.zeros_like, params)
  adam, none = torch_adam.start(params), jnp.zeros((), jnp.int32)
  return State(params, statistics, zeros, adam, none, optax.tree.norm(zeros))


def micro_step(
  decoder: Decoder,
  state: State,
  shapes: Shapes,
  config: ReferenceConfig,
  batch: Batch,
) -> tuple[State, Report]:
  """One record: edit, look at the losses, accumulate, perhaps update."""
  statistics, report = episode(
    decoder, state.params, state.statistics, shapes, config, batch
  )
  # Statistics grow before the loss is known, and stay if the step is skipped.
  state = state._replace(statistics=statistics)
  return optimise(state, config, report.gradients), report


def episode(
  decoder: Decoder,
  params: Any,
  statistics: hypernetwork.Statistics,
  shapes: Shapes,
  config: ReferenceConfig,
  batch: Batch,
) -> tuple[hypernetwork.Statistics, Report]:
  """The losses of an edit and their gradients; the statistics it grew."""
  read = read_prompt(decoder, batch)
  factors, inner, inner_logits = edit_factors(decoder, shapes, batch, read)
  statistics, seen = hypernetwork.fold_in_turn(
    statistics, shapes, config.hypernetwork, factors
  )

  def total(params: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    pseudo, edit = propose(params, seen, shapes, config, factors)
    value, scalars, logits = outcome(decoder, edit, config, batch, read)
    return value, (pseudo, edit, scalars, logits)

  (_, rest), gradients = jax.value_and_grad(total, has_aux=True)(params)
  pseudo, edit, scalars, logits = rest
  return statistics, Report(
    factors=factors,
    seen=seen,
    pseudo=pseudo,
    edit=edit,
    logits={"inner": inner_logits, **logits},
    scalars={**scalars, "inner_nll": inner},
    gradients=gradients,
  )


def validate(
  decoder: Decoder,
  params: Any,
  statistics: hypernetwork.Statistics,
  shapes: Shapes,
  config: ReferenceConfig,
  batch: Batch,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Scalars and logits of an edit made with unchanged statistics."""
  read = read_prompt(decoder, batch)
  factors, inner, _ = edit_factors(decoder, shapes, batch, read)
  seen = hypernetwork.by_matrix(statistics, shapes, config.hypernetwork)
  edit = propose(params, seen, shapes, config, factors)[1]
  _, scalars, logits = outcome(decoder, edit, config, batch, read)
  return {**scalars, "inner_nll": inner}, logits


def make_edit(
  decoder: Decoder,
  params: Any,
  statistics: hypernetwork.Statistics,
  shapes: Shapes,
  config: ReferenceConfig,
  batch: Batch,
) -> LowRankEdit:
  """The edit of a trained editor, its statistics unchanged."""
  read = read_prompt(decoder, batch)
  factors, _, _ = edit_factors(decoder, shapes, batch, read)
  seen = hypernetwork.by_matrix(statistics, shapes, config.hypernetwork)
  return propose(params, seen, shapes, config, factors)[1]


def outcome(
  decoder: Decoder,
  edit: LowRankEdit,
  config: ReferenceConfig,
  batch: Batch,
  read: Read,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
  """The total loss of an edit; scalars and logits by name.

  Args:
    decoder: the frozen model.
    edit: of the batch's prompt.
    config: gives the weights.
    batch: what to ask of it.
    read: the batch's prompt.
  """
  others = _read(decoder, batch.loc_tokens, batch.loc_mask, batch.loc_fill)
  base_loc, tap = _finish(decoder, others, None), edit.tap()
  # The edit is scored on the strings that made it: nothing rewards an edit
  # for reaching other wordings.
  post_edit = _finish(decoder, read, tap)
  post_loc = _finish(decoder, others, tap)
  l_edit, scores = edit_loss(post_edit, batch)
  l_loc, loc_acc = locality_loss(base_loc, post_loc, batch.answer_mask)
  value = config.cedit * l_edit + config.cloc * l_loc
  scalars = {**scores, "l_edit": l_edit, "l_loc": l_loc, "loc_acc": loc_acc}
  return (
    value,
    {**scalars, "l_total": value},
    {"base_loc": base_loc, "post_edit": post_edit, "post_loc": post_loc},
  )


def edit_factors(
  decoder: Decoder, shapes: Shapes, batch: Batch, read: Read
) -> tuple[Factors, jax.Array, jax.Array]:
  """Factors of the edit loss, the loss, and logits [B, T, V].

  A row is kept where neither its input nor its gradient is exactly zero: that
  drops padding that predicts no label, and in the last block whatever does not.
  """

  def loss(tap: Tap) -> tuple[jax.Array, jax.Array]:
    logits = _finish(decoder, read, tap)
    return edit_loss(logits, batch)[0], logits

  inputs, deltas, value, logits = probe(loss)
  factors = all_rows(
    {name: inputs[name] for name in shapes},
    {name: deltas[name] for name in shapes},
  )
  return factors, value, logits


def propose(
  params: Any,
  seen: hypernetwork.Statistics,
  shapes: Shapes,
  config: ReferenceConfig,
  factors: Factors,
) -> tuple[Factors, LowRankEdit]:
  """Transformed factors, and the one edit that all strings make together.

  The rows are summed, not averaged, and whitening has erased their scale: a
  longer prompt pushes harder.
  """
  form = config.hypernetwork
  white = hypernetwork.whiten(seen, form, factors)
  pseudo = hypernetwork.transform(params["networks"], shapes, form, white)
  v = {
    name: params["edit_lrs"][index] * pseudo.delta[name]
    for index, name in enumerate(shapes)
  }
  return pseudo, LowRankEdit(u=dict(pseudo.x), v=v).combined()


def forward(
  decoder: Decoder, tokens: jax.Array, mask: jax.Array, tap: Tap | None = None
) -> jax.Array:
  """Logits [B, T, V] of strings padded on the left."""
  return _finish(decoder, _read(decoder, tokens, mask, None), tap)


def read_prompt(decoder: Decoder, batch: Batch) -> Read:
  """The batch's edit prompt up to the first editable matrix."""
  return _read(decoder, batch.tokens, batch.mask, batch.fill)


def _read(
  decoder: Decoder, tokens: jax.Array, mask: jax.Array, fill: jax.Array | None
) -> Read:
  """The frozen blocks; positions are counted from the start of the padding.

  The released code passes no position ids, so a GPT-2 string gets other
  learned positions in a batch with a longer one than alone.
  """
  places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  if fill is not None:
    places = jnp.maximum(places - fill, 0)
  sequence = Sequence(jnp.broadcast_to(places[None, :], tokens.shape), mask)
  return decoder.prefix(tokens, sequence), sequence


def _finish(decoder: Decoder, read: Read, tap: Tap | None) -> jax.Array:
  return decoder.logits(decoder.suffix(*read, tap))


def edit_loss(
  logits: jax.Array, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of both the inner and the outer problem, and scores by name."""
  labels, predicted = batch.labels, logits[:, :-1]
  if batch.same is not None:
    labels = labels[:, 1:]
  else:
    # Labels were tokenised apart from the prompt; left padding lines their
    # columns up with the last ones, whatever they are.
    predicted = predicted[:, -labels.shape[1] :]
  real = labels != -100
  labels = jnp.where(real, labels, 0)
  logp = jnp.take_along_axis(
    jax.nn.log_softmax(predicted, -1), labels[..., None], -1
  )[..., 0]
  correct = (likeliest(predicted) == labels) & real
  scores = {"acc": _masked_mean(correct.astype(logp.dtype), real)}
  if batch.same is None:
    scores["log_prob"] = _masked_mean(logp, real)
    scores["prob"] = _masked_mean(jnp.exp(logp), real)
    return -scores["log_prob"], scores
  good, bad = real & batch.same[:, None], real & ~batch.same[:, None]
  # Single precision's epsilon, whatever the precision.
  unlikely = jnp.log(1 - jnp.exp(logp) + float(jnp.finfo(jnp.float32).eps))
  # All tokens count, the question's too; the first one is predicted from the
  # last pad, whose row the edit then keeps.
  scores["log_prob"] = _masked_mean(logp, good)
  scores["prob"] = jnp.exp(scores["log_prob"])
  return -scores["log_prob"] - _masked_mean(unlikely, bad), scores


def locality_loss(
  base: jax.Array, post: jax.Array, answer_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """KL(base || post) over the last A positions, and how often argmax agrees.

  These are the positions *of* the answer's tokens, so its first token may
  change freely and what follows the answer may not: a shift by one is missing.
  The agreement counts masked positions as well.
  """
  width = answer_mask.shape[1]
  base, post = base[:, -width:], post[:, -width:]
  kept = answer_mask != 0
  wanted = jax.nn.log_softmax(base, -1)
  gap = wanted - jax.nn.log_softmax(post, -1)
  divergence = jnp.sum(jnp.exp(wanted) * gap, -1)
  agree = likeliest(base) == likeliest(post)
  return _masked_mean(divergence, kept), agree.mean(dtype=base.dtype)


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  total = jnp.where(mask, values, 0).sum()
  return total / mask.sum(dtype=values.dtype)


def optimise(state: State, config: ReferenceConfig, gradients: Any) -> State:
  """Accumulates, and at every `accumulate`-th micro-step clips and updates."""
  # One bad entry drops the whole micro-step.
  finite = is_finite(gradients)
  summed = jax.tree.map(
    lambda old, new: jnp.where(finite, old + new / config.accumulate, old),
    state.gradients,
    gradients,
  )
  norm = optax.tree.norm(summed)

  def update(_: None) -> tuple[Any, Any, Any]:
    # torch's clip: a constant in the denominator, never enlarges.
    factor = jnp.minimum(config.grad_clip / (norm + 1e-6), 1)
    clipped = jax.tree.map(lambda leaf: leaf * factor, summed)
    params, adam = torch_adam.update(
      state.params, state.adam, clipped, config.lr
    )
    # The edit learning rates belong to two optimizers. The first clears their
    # gradient after its step, so the second, the one with lr_lr, never moves
    # them: they crawl at `lr` like everything else.
    return params, adam, jax.tree.map(jnp.zeros_like, summed)

  def wait(_: None) -> tuple[Any, Any, Any]:
    return state.params, state.adam, summed

  step = state.step + 1
  due = step % config.accumulate == 0
  params, adam, held = jax.lax.cond(due, update, wait, None)
  return State(params, state.statistics, held, adam, step, norm)


def is_finite(gradients: Any) -> jax.Array:
  """Whether no entry at all is infinite or not a number."""
  leaves = jax.tree.leaves(gradients)
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
