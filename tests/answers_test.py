"""What an edited model makes of its own requests."""

import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing.sequences import score
from instructedit_jax.editors.answers import answers_of
from instructedit_jax.editors.metalearned import edit_factors
from instructedit_jax.models.decoder import Sequence
from tests import tiny


def test_losses_are_those_that_factors_are_made_of():
  model = tiny.model()
  rows, edit = tiny.proposed(tiny.editor(model, rate=0.3), model, tiny.REQUESTS)
  _, expected = edit_factors(model.decoder(), rows, "answer", edit)
  np.testing.assert_allclose(
    answers_of(edit, model.decoder(), rows).loss,
    expected,
    rtol=1e-5,
    atol=1e-6,
  )


def test_what_is_said_is_what_the_merged_model_finds_likeliest():
  model = tiny.model()
  # Some of these requests say their answers after it, some do not.
  rows, edit = tiny.proposed(tiny.editor(model, rate=1.0), model, tiny.REQUESTS)
  said = np.asarray(answers_of(edit, model.decoder(), rows).said)
  expected = []
  for number, request in enumerate(tiny.REQUESTS):
    scored = score(
      model.text, request.prompt, request.target, context=model.config.context
    )
    # Scored places are the last ones of a sequence: each sees the label's left.
    tokens = jnp.asarray([scored.tokens])
    places = jnp.arange(tokens.size)[None]
    merged = edit[number].merge(model).decoder()
    logits = merged(tokens, Sequence(places, jnp.ones_like(places)))
    answer = logits[0, -len(scored.labels) :].argmax(-1)
    expected.append(answer.tolist() == list(scored.labels))
  assert list(said[: len(tiny.REQUESTS)]) == expected
  assert 0 < sum(expected) < len(tiny.REQUESTS)
  assert said[len(tiny.REQUESTS) :].all()  # padding has nothing to say
