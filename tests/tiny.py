"""A tiny model that answers in words, an editor for it, and records."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from instructedit_jax.editing.edits import Edit, LowRankEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editing.sequences import score
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.evaluation.predictions import Prediction, predict
from instructedit_jax.models import presets
from instructedit_jax.models.language_model import LanguageModel, random_model
from instructedit_jax.models.tokenizer import Tokenizer, byte_tokenizer
from instructedit_jax.tasks.record import Conversation, Probe, Record

_LETTERS = "abcdefgh"
STRONG = 1.0  # a rate at which an untrained editor's edits show
# Asked of the tokenizer below; answers of one token and of several.
REQUESTS = (
  Request("the cat is", "b"),
  Request("a dog and the", "a b"),
  Request("the", "c"),
  Request("b and", "the cat is a dog"),
)


def tokenizer() -> Tokenizer:
  """Bytes, and a blank with a letter as one token: answers are words."""
  plain = byte_tokenizer()
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [f"Ġ{letter}" for letter in _LETTERS]
  core = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: i for i, token in enumerate([*alphabet, *words])},
      merges=[("Ġ", letter) for letter in _LETTERS],
    )
  )
  core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  core.decoder = decoders.ByteLevel()
  core.add_special_tokens(["<|endoftext|>"])
  end = core.token_to_id("<|endoftext|>")
  return dataclasses.replace(
    plain, core=core, name="words", eos_ids=frozenset({end}), pad_id=end
  )


def model(preset: str = "tiny-llama", seed: int = 0) -> LanguageModel:
  """A random model over `tokenizer`."""
  return random_model(
    presets.preset(preset), seed, name=f"random:{preset}", tokenizer=tokenizer()
  )


def editor(
  base: LanguageModel, method: str = "mend", rate: float = STRONG
) -> TrainedEditor:
  """Fresh statistics, identity network: plain gradient descent."""
  config = EditorConfig(method=method, rate=rate, rounds=1, ridge=0.0, insist=0)
  params, statistics = metalearned.init(jax.random.key(0), config, base.config)
  return TrainedEditor(
    config,
    params,
    statistics,
    base.fingerprint,
    base.config.suffix,
    {"model": base.name},
  )


def proposed(
  made: TrainedEditor, base: LanguageModel, requests: Sequence[Request]
) -> tuple[Rows, LowRankEdit]:
  """The requests as padded rows, and an edit for each of them."""
  rows, _ = made.inputs(base, requests, PrefixCache(base))
  return rows, padded(made.propose_each(base, requests), len(rows.hidden))


def padded(edits: LowRankEdit, count: int) -> LowRankEdit:
  """The edits, with empty ones behind them."""
  more = count - len(next(iter(edits.v.values())))
  return jax.tree.map(
    lambda leaf: jnp.pad(leaf, [(0, more), (0, 0), (0, 0)]), edits
  )


def record(number: int, target: str = "a", **changes) -> Record:
  """A fact with one rephrase, two locality and two portability probes."""
  return Record(
    **{
      "id": f"counterfact/test/{number}",
      "task": "counterfact",
      "subject": f"S{number}",
      "prompt": f"S{number} is",
      "target": target,
      "rephrases": (f"What S{number} is:",),
      "locality": (
        Probe("Neighborhood", f"T{number} is", ("b c",)),
        Probe("Forgetfulness", f"S{number} was", ("d",)),
      ),
      "portability": (
        Probe("Reasoning", f"It is S{number}, so", ("e", target)),
        Probe("Reasoning", f"S{number}, thus", (target,)),
      ),
      **changes,
    }
  )


def opinion(number: int) -> Record:
  """A ConvSent record."""
  topic = f"topic {number}"
  return Record(
    id=f"convsent/test/{number}",
    task="convsent",
    subject=topic,
    prompt=f"What of {topic}?",
    target="a b c",
    rephrases=(f"And {topic}?",),
    locality=(Probe("other_topic", "What of time?", ("d e f",)),),
    conversation=Conversation(
      topic,
      (f"What of {topic}?", f"And {topic}?"),
      ("a b c", "a a"),
      ("f g", "h h h"),
      "positive",
    ),
  )


@functools.cache
def decided() -> LanguageModel:
  """A model whose head is large enough to be sure of something."""
  plain = model("tiny-llama")
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: 30 * leaf if "head" in str(path[0]) else leaf,
    plain.params,
  )
  return dataclasses.replace(plain, params=params)


def after(
  model: LanguageModel, requests: Sequence[Request], edit: Edit | None
) -> list[Prediction]:
  """What the edited model makes of each request's target."""
  texts = [
    [score(model.text, r.prompt, r.target, context=model.config.context)]
    for r in requests
  ]
  return [row[0] for row in predict(model, PrefixCache(model), texts, edit)]
