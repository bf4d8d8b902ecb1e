"""What the experiments have in common: model, tasks, records, seeds.

`get_config(arg)` of every file beside this one takes the name of a model:
smollm2-135m (default), gpt2-xl or llama-2-7b.
"""

import ml_collections

from configs import multi

TASKS = ("counterfact", "wikirecent", "convsent", "zsre")
TRAINING = ("counterfact", "wikirecent", "convsent")  # zsre is held out
# Mixtures that several experiments train on.
RECENT = {"wikirecent": 1}
FACTS = {"wikirecent": 1, "counterfact": 1}


def base(arg: str = "") -> ml_collections.ConfigDict:
  """Settings of an experiment without any editor."""
  model = arg or "smollm2-135m"
  if model not in multi.MODELS:
    known = ", ".join(multi.MODELS)
    raise ValueError(f"{model!r} is none of {known}")
  config = ml_collections.ConfigDict()
  config.model = multi.MODELS[model]
  config.data = "hub"
  config.tasks = TASKS
  config.limit = 100  # records of each task; 0 takes all
  config.seeds = (0, 1, 2)
  config.instruction = "held_out:0"
  config.queries = ("bare",)
  config.free = False
  config.free_limit = 0
  config.fluency_limit = 0
  config.editors = ml_collections.ConfigDict()
  config.order = ()  # of the editors in tables: a ConfigDict sorts its keys
  return config


def add(
  config: ml_collections.ConfigDict,
  name: str,
  editor: str | ml_collections.ConfigDict,
) -> None:
  """Adds an editor: a training run, or a name that `evaluate` knows."""
  if isinstance(editor, ml_collections.ConfigDict):
    multi.set_model(editor, config.model)
  config.editors[name] = editor
  config.order = (*config.order, name)


def recipe(
  method: str, weights: dict[str, float] | None = None
) -> ml_collections.ConfigDict:
  """A training run of `configs/multi.py`, on other tasks if wanted.

  Args:
    method: of the editor.
    weights: task -> its share of the mixture; by default the same for each of
      `TRAINING`.
  """
  config = multi.get_config(method)
  if weights is not None:
    config.tasks = ml_collections.ConfigDict(
      {task: float(weight) for task, weight in weights.items()}
    )
  return config


def sweep(arg: str, title: str, about: str) -> ml_collections.ConfigDict:
  """An experiment of `experiments.sweep` without any editor.

  Args:
    arg: a model.
    title: of its page and picture.
    about: what is compared, in a sentence.
  """
  config = base(arg)
  config.title, config.about = title, about
  config.reference = ""  # an editor that all others are compared with
  config.axis = ml_collections.ConfigDict()  # editor -> its place on a line
  config.axis_label = ""
  config.proportions = False  # fit the best mixture
  config.norms = False  # sizes of pseudo-gradients and of training gradients
  return config
