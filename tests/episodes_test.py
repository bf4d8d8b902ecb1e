"""What an episode asks of the edited model."""

import dataclasses

import numpy as np
import pytest

from instructedit_jax.tasks import instructions
from instructedit_jax.tasks.augment import other_form
from instructedit_jax.training.batches import fitting
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.episodes import EpisodeConfig, Kind
from tests import tiny_run as tiny


@pytest.fixture(scope="module")
def model():
  return tiny.model()


def test_conversations_ask_for_both_sentiments(model):
  config = tiny.config(tasks=(("convsent", 1.0),))
  made = Episodes(model, config, load_records(config))
  record = made.validation[0]
  episode = made._maker(record, np.random.default_rng(0))
  kinds = {kind for kind, _ in episode.queries}
  assert kinds == {Kind.KEEP, Kind.EDIT, Kind.AVOID}
  assert record.conversation.wanted in episode.instruction.description


def test_an_opinion_is_asked_under_other_questions(model):
  config = tiny.config(
    tasks=(("convsent", 1.0),),
    episode=EpisodeConfig(instructed=0, target_tokens=6),
  )
  made = Episodes(model, config, load_records(config))
  rng = np.random.default_rng(0)
  asked = set()
  for record in made.validation:
    questions = record.conversation.questions
    (_, bare), (kind, other), *_ = made._maker(record, rng).queries
    assert kind is Kind.EDIT
    assert other.labels == bare.labels
    text = model.text.decode(other.tokens)
    mine = [q for q in questions if text.startswith(q)]
    assert mine
    asked |= {q == record.prompt for q in mine}
  assert False in asked


def _in_scope(model, config):
  """The in-scope queries of every validation record's episode."""
  made = Episodes(model, config, load_records(config))
  assert made.validation
  for record in made.validation:
    queries = made._maker(record, np.random.default_rng(0)).queries
    yield [query for query in queries if query[0] is not Kind.KEEP]


def test_of_further_questions_the_beginning_counts(model):
  """One reply in full, two beginnings, and one to avoid."""
  config = tiny.config(
    tasks=(("convsent", 1.0),),
    episode=EpisodeConfig(instructed=0, opening_tokens=2, target_tokens=6),
  )
  for (_, bare), (_, other), *rest in _in_scope(model, config):
    assert len(other.labels) == len(bare.labels)
    assert [kind for kind, _ in rest] == [Kind.EDIT, Kind.EDIT, Kind.AVOID]
    for _, opening in rest[:2]:
      assert opening.labels == bare.labels[:2]


def test_a_fact_has_further_questions_too(model):
  """Of other wordings, not of the one that makes the edit."""
  config = tiny.config(
    tasks=(("counterfact", 1.0),),
    episode=EpisodeConfig(instructed=0, opening_tokens=2, openings=2),
  )
  for (_, bare), (_, other), *rest in _in_scope(model, config):
    assert other.labels == bare.labels
    assert [kind for kind, _ in rest] == [Kind.EDIT, Kind.EDIT]
    for _, opening in rest:
      assert opening.labels == bare.labels[:2]
      assert opening.tokens[: len(bare.tokens)] != bare.tokens


@pytest.mark.parametrize("cut", [2, 1000])
def test_an_answer_is_given_once(model, cut):
  """What follows the whole new answer stays as it was, however one asks."""
  config = tiny.config(
    tasks=(("counterfact", 1.0),),
    episode=EpisodeConfig(
      own_locality=0,
      near_locality=0,
      same_relation=0,
      other_locality=0,
      continuations=2,
      instructed=0,
      locality_tokens=3,
      target_tokens=cut,
    ),
  )
  made = Episodes(model, config, load_records(config))
  rng = np.random.default_rng(0)
  asked = []
  for record in made.validation:
    queries = made._maker(record, rng).queries
    after = [query for kind, query in queries if kind is Kind.KEEP]
    assert len(after) == 2
    for query in after:
      # The first scored position is that of the answer's last token.
      read = len(query.tokens) - len(query.labels) + 1
      prompt, blank, _ = model.text.decode(query.tokens[:read]).rpartition(
        f" {record.target}"
      )
      assert blank
      asked.append("own" if prompt == record.prompt else prompt[-1])
      assert 1 <= len(query.labels) <= 3
  assert {"own", "?"} <= set(asked)


@pytest.mark.parametrize("task", ["counterfact", "wikirecent", "convsent"])
def test_instructed_questions_are_not_left_out(model, task):
  """Long as they are, a row that is too short for all queries holds them."""
  config = tiny.config(
    tasks=((task, 1.0),),
    episode=EpisodeConfig(instructed=1, target_tokens=6, locality_tokens=3),
  )
  made = Episodes(model, config, load_records(config))
  rng = np.random.default_rng(0)
  short = 0
  for record in made.validation:
    numbers = range(len(instructions.POOLS[task].seen))
    own = [instructions.fixed(record, number) for number in numbers]
    said = tuple(each.prefix() for each in own)
    asked = tuple(each.apply(record.prompt) for each in own)
    episode = made._maker(record, rng)
    kept = fitting(episode, config.shape)
    short += len(kept) < len(episode.queries)
    texts = [(kind, model.text.decode(query.tokens)) for kind, query in kept]
    assert sum(k is Kind.EDIT and t.startswith(asked) for k, t in texts) == 1
    assert sum(k is Kind.KEEP and t.startswith(said) for k, t in texts) == 1
  assert short


def test_what_makes_the_edit_is_not_asked_as_another_wording(model):
  """The bare prompt alone is: of the form beside it nothing is to be learnt."""
  plain = tiny.config(
    tasks=(("counterfact", 1.0),),
    episode=EpisodeConfig(
      paraphrases=4, openings=4, instructed=0, target_tokens=6
    ),
  )
  asked = {}
  for both in (False, True):
    editor = dataclasses.replace(plain.editor, both_forms=both)
    config = dataclasses.replace(plain, editor=editor)
    made = Episodes(model, config, load_records(config))
    asked[both] = 0
    for record in made.validation * 4:
      rng = np.random.default_rng(asked[both])
      episode = made._maker(record, rng)
      question = other_form(record.prompt)
      assert question is not None
      other = made._score(question, record.target, 6).tokens
      assert (other in [view.tokens for view in episode.edit]) == both
      asked[both] += other in [query.tokens for _, query in episode.queries]
  assert asked[False] > 0
  assert asked[True] == 0
