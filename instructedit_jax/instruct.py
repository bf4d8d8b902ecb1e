"""Writes descriptions of tasks and keeps those that edit best.

export OPENAI_API_KEY=...
python -m instructedit_jax.instruct --base_url=https://host/v1 --model=NAME \
  --editor=runs/instructedit --tasks=counterfact,zsre --out=pools/mine.json
python -m instructedit_jax.instruct --local=smollm2-135m \
  --editor=runs/instructedit --out=pools/local.json

The endpoint may be any that speaks the OpenAI chat protocol. The key comes from
the environment, or from --api_key, and is written nowhere. The same command
goes on where an earlier one was cut off. docs/instructions.md says more.
"""

import os
from collections.abc import Sequence

from absl import flags, logging

from instructedit_jax import app
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.protocol import editor_stamp
from instructedit_jax.instructing import state as states
from instructedit_jax.instructing.endpoint import Endpoint, EndpointConfig
from instructedit_jax.instructing.scoring import EditorScorer
from instructedit_jax.instructing.search import Settings, search
from instructedit_jax.instructing.writers import LocalWriter, Writer
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks.instructions import POOLS, Pools, load_pools
from instructedit_jax.tasks.record import TASKS, Record
from instructedit_jax.tasks.set_aside import held_back
from instructedit_jax.tasks.splits import EMBEDDED, load_split

URL_VARIABLE, MODEL_VARIABLE = "OPENAI_BASE_URL", "OPENAI_MODEL"
KEY_VARIABLE = "OPENAI_API_KEY"
BUILTIN = "builtin"
_SETTINGS = Settings("")
_ENDPOINT = EndpointConfig("http://localhost", "none")

_OUT = flags.DEFINE_string("out", "", "Pool file to write, FILE.json.")
_BASE_URL = flags.DEFINE_string(
  "base_url", None, f"Of the endpoint, up to /v1; default ${URL_VARIABLE}."
)
_MODEL = flags.DEFINE_string(
  "model", None, f"The endpoint's model; default ${MODEL_VARIABLE}."
)
_API_KEY = flags.DEFINE_string(
  "api_key", None, f"Better in ${KEY_VARIABLE}: others can see your flags."
)
_LOCAL = flags.DEFINE_string(
  "local", None, "A model of this library writes, instead of an endpoint."
)
_EDITOR = flags.DEFINE_string("editor", "", "Folder of the trial editor.")
_BASE_MODEL = flags.DEFINE_string(
  "base_model", None, "That is edited; by default the one the editor names."
)
_TASKS = flags.DEFINE_list("tasks", list(TASKS), "To write descriptions for.")
_DATA = flags.DEFINE_string(
  "data", None, "A folder, 'embedded' or 'hub'; default as trained."
)
_SPLIT = flags.DEFINE_string(
  "split", "train", "Its last records, which training sets aside, are used."
)
_RECORDS = flags.DEFINE_integer(
  "records", 24, "Of each task: one half for feedback, one to choose by."
)
_START = flags.DEFINE_string(
  "start", None, "Pools that compete too: a file, or 'builtin'."
)
_COUNT = flags.DEFINE_integer("count", _SETTINGS.count, "Written at once.")
_KEEP = flags.DEFINE_integer("keep", _SETTINGS.keep, "Best ones to keep.")
_HELD_OUT = flags.DEFINE_integer(
  "held_out", _SETTINGS.held_out, "More to keep, for tests only."
)
_ROUNDS = flags.DEFINE_integer("rounds", _SETTINGS.rounds, "At most, a task.")
_PATIENCE = flags.DEFINE_integer(
  "patience", _SETTINGS.patience, "Rounds without gain before a task is done."
)
_MAX_CALLS = flags.DEFINE_integer(
  "max_calls", _SETTINGS.max_calls, "Requests in all, over all runs."
)
_MAX_COST = flags.DEFINE_float("max_cost", None, "In the prices' unit.")
_PROMPT_PRICE = flags.DEFINE_float(
  "prompt_price", 0.0, "Of a million tokens that are sent."
)
_REPLY_PRICE = flags.DEFINE_float(
  "reply_price", 0.0, "Of a million tokens that are written."
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", None, "Of the writer; by default its own."
)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", _ENDPOINT.max_tokens, "Of an answer; 0 sends no limit."
)
_TIMEOUT = flags.DEFINE_float(
  "timeout", _ENDPOINT.timeout, "Seconds a request."
)
_RETRIES = flags.DEFINE_integer(
  "retries", _ENDPOINT.retries, "After failures that may pass."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")


def main(argv: Sequence[str]) -> None:
  """Searches and says what was found."""
  del argv
  logging.set_verbosity(logging.INFO)  # a search takes long: it says how far
  if not _OUT.value.endswith(".json"):
    raise UserError("--out=FILE.json is missing: where should the pool go?")
  if not _EDITOR.value:
    raise UserError(
      "--editor=FOLDER is missing: a trained editor that tries descriptions"
    )
  if _RECORDS.value < 2:
    raise UserError(f"--records={_RECORDS.value}: must be at least 2")
  settings = Settings(
    out=_OUT.value,
    count=_COUNT.value,
    keep=_KEEP.value,
    held_out=_HELD_OUT.value,
    rounds=_ROUNDS.value,
    patience=_PATIENCE.value,
    max_calls=_MAX_CALLS.value,
    max_cost=_MAX_COST.value,
    prompt_price=_PROMPT_PRICE.value,
    reply_price=_REPLY_PRICE.value,
    reply_tokens=_MAX_TOKENS.value or _SETTINGS.reply_tokens,
    seed=_SEED.value,
  )
  writer = None if _LOCAL.value else _endpoint()
  editor = load_editor(_EDITOR.value)
  records = _records(editor)
  model = _model(editor)
  made = search(
    settings,
    _local(model, settings) if writer is None else writer,
    EditorScorer(model, editor, _scorer_name(editor, model)),
    records,
    _start(),
  )
  for task, lists in made["tasks"].items():
    print(f"\n{task}: {made['provenance']['tasks'][task]['done'] or 'cut off'}")
    for split, texts in lists.items():
      print("\n".join(f"  {split:<9} {text}" for text in texts))
  told = made["provenance"]
  spent = f", cost {told['cost']:.4g}" if told["cost"] else ""
  print(f"\n{told['calls']} calls{spent}. The pools are in {_OUT.value}")
  if told["stopped"]:
    print(f"It stopped early: {told['stopped']}. Raise the limit to go on.")


def _endpoint() -> Writer:
  url = _BASE_URL.value or os.environ.get(URL_VARIABLE)
  name = _MODEL.value or os.environ.get(MODEL_VARIABLE)
  key = _API_KEY.value or os.environ.get(KEY_VARIABLE) or ""
  if not url:
    raise UserError(
      f"who writes? Give --base_url=URL (or ${URL_VARIABLE}) of an endpoint"
      " that speaks the OpenAI chat protocol, or --local=smollm2-135m"
    )
  return Endpoint(
    EndpointConfig(
      base_url=url,
      model=name or "",
      key=key.strip(),
      temperature=_TEMPERATURE.value,
      max_tokens=_MAX_TOKENS.value or None,
      timeout=_TIMEOUT.value,
      retries=_RETRIES.value,
    )
  )


def _local(edited: LanguageModel, settings: Settings) -> Writer:
  spec = str(_LOCAL.value)
  model = edited if spec == edited.name else load_model(spec)
  fallback = LocalWriter(model).temperature
  warm = _TEMPERATURE.value
  return LocalWriter(
    model,
    max_tokens=min(_MAX_TOKENS.value or 700, model.config.context // 2),
    temperature=fallback if warm is None else warm,
    # Not what earlier runs drew: it may be why they ended.
    seed=settings.seed + states.calls(settings.state_path),
  )


def _model(editor: TrainedEditor) -> LanguageModel:
  spec = _BASE_MODEL.value or editor.details.get("model")
  if not spec:
    raise UserError("the editor names no model; say which with --base_model")
  dtype = (editor.details.get("config") or {}).get("dtype") or "float32"
  model = load_model(spec, dtype=dtype, suffix=editor.suffix)
  editor.check(model)
  return model


def _records(editor: TrainedEditor) -> dict[str, list[Record]]:
  """The last records of each task, which the editor was not trained on."""
  data = _DATA.value or editor.details.get("data") or EMBEDDED
  chosen = {}
  for task in dict.fromkeys(_TASKS.value):
    records, _ = load_split(data, task, _SPLIT.value)
    chosen[task] = records[-_RECORDS.value :]
    trained = _SPLIT.value == "train"
    aside = _set_aside(editor, len(records)) if trained else None
    if aside is not None and len(chosen[task]) > aside:
      logging.warning(
        "%s: the editor may have been trained on some of the %d records that"
        " are used here, for its training set only the last %d aside",
        *(task, len(chosen[task]), aside),
      )
  return chosen


def _set_aside(editor: TrainedEditor, records: int) -> int | None:
  """How many of a task's training records the editor was not trained on.

  None where nothing is known of its training.
  """
  config = editor.details.get("config") or {}
  aside = config.get("validation_records")
  if not isinstance(aside, int):
    return None
  # The published recipe validates on records that it trains on.
  return held_back(records, aside) if "episode" in config else 0


def _scorer_name(editor: TrainedEditor, model: LanguageModel) -> str:
  stamp = editor_stamp(editor) or {}
  numbers = str(stamp.get("sha256"))[:16]
  return f"{editor.name}:{numbers} of {model.name}:{model.fingerprint[:16]}"


def _start() -> Pools | None:
  if _START.value is None:
    return None
  return POOLS if _START.value == BUILTIN else load_pools(_START.value)


if __name__ == "__main__":
  app.run(main)
