"""Descriptions tried by a real editor, and the whole command."""

import os
import pathlib
import subprocess
import sys

import pytest

from instructedit_jax.evaluation import Options, evaluate
from instructedit_jax.instructing import EditorScorer
from instructedit_jax.instructing.scoring import harmonic
from instructedit_jax.instructing.writers import LocalWriter, Message
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.instructions import Instruction, load_pools
from tests import tiny
from tests.chat_server import KEY, descriptions, serve

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Noting:
  """An editor that notes the instructions it is given."""

  def __init__(self, editor):
    self._editor = editor
    self.name = "noting"
    self.told: list[Instruction | None] = []

  def propose_each(self, model, requests, cache=None):
    self.told += [request.instruction for request in requests]
    return self._editor.propose_each(model, requests, cache)


@pytest.fixture(scope="module")
def model():
  return tiny.model()


def test_the_score_is_that_of_an_evaluation(model):
  editor = tiny.editor(model, "instructedit_text")
  records = [tiny.record(n) for n in range(3)]
  scorer = EditorScorer(model, editor, "trial")
  score = scorer.score("counterfact", "Change a fact.", records)
  results = evaluate(
    model,
    editor,
    records,
    options=Options(
      instruction=Instruction("counterfact", "Change a fact."),
      free=False,
      fluency_limit=0,
    ),
  )
  names = ("reliability_em", "generalization_em", "locality_token")
  assert score.parts == {
    name: pytest.approx(results.value(name), abs=1e-3) for name in names
  }
  assert score.value == pytest.approx(harmonic(list(score.parts.values())))
  tokens = ("reliability_token", "generalization_token", "locality_token")
  assert score.tie == pytest.approx(
    sum(map(results.value, tokens)) / 3, abs=1e-3
  )


def test_placeholders_are_filled_record_by_record(model):
  editor = Noting(tiny.editor(model))
  scorer = EditorScorer(model, editor, "trial")
  records = [tiny.opinion(1), tiny.opinion(2)]
  score = scorer.score("convsent", "Be [LABEL] about [TOPIC].", records)
  assert [told.description for told in editor.told] == [
    "Be positive about topic 1.",
    "Be positive about topic 2.",
  ]
  assert set(score.parts) == {
    "reliability_token",
    "generalization_token",
    "locality_token",
  }


def test_harmonic_means():
  assert harmonic([50, 50, 50]) == pytest.approx(50)
  assert harmonic([100, 50]) == pytest.approx(200 / 3)
  assert harmonic([100, 0]) == harmonic([]) == 0


def test_a_local_model_continues_a_list(model):
  calls = []
  writer = LocalWriter(model, max_tokens=4)
  long = [Message("system", "a" * 5000), Message("user", "Write two.")]
  first = writer.write(long, lambda: calls.append(1))
  second = writer.write(long, lambda: calls.append(1))
  assert first.text.startswith("1.")
  assert first != second  # the next seed
  assert len(calls) == 2
  assert writer.name.startswith("local:random:tiny-llama:")


@pytest.mark.slow
def test_the_command_leaves_no_key_behind(tmp_path):
  base = load_model("random:tiny-llama")
  tiny.editor(base, "instructedit_text").save(tmp_path / "trial")
  texts = [f"Change one fact about a thing, way {n}." for n in range(3)]
  out = tmp_path / "pools" / "p.json"
  with serve(descriptions(*texts)) as answers:
    result = subprocess.run(
      [
        *(sys.executable, "-m", "instructedit_jax.instruct"),
        *(f"--base_url={answers.url}", "--model=writer", f"--out={out}"),
        *(f"--editor={tmp_path / 'trial'}", "--tasks=counterfact"),
        *("--data=embedded", "--records=2", "--count=3", "--keep=2"),
        *("--held_out=1", "--rounds=1"),
      ],
      cwd=ROOT,
      env=os.environ
      | {"OPENAI_API_KEY": KEY, "XDG_CACHE_HOME": str(tmp_path / "cache")},
      capture_output=True,
      text=True,
      check=False,
    )
  assert result.returncode == 0, result.stderr
  assert answers.asked[0][0]["Authorization"] == f"Bearer {KEY}"
  pool = load_pools(out)["counterfact"]
  assert {*pool.seen, *pool.held_out} == set(texts)
  assert "limit of 1 rounds" in result.stdout
  assert KEY not in result.stdout + result.stderr
  files = [path for path in tmp_path.rglob("*") if path.is_file()]
  assert len(files) >= 4
  assert not [p for p in files if KEY.encode() in p.read_bytes()]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--out=FILE.json is missing"),
    (["--out=p.json"], "--editor=FOLDER is missing"),
    (["--out=p.json", "--editor=e"], "who writes?"),
    (["--out=p.json", "--editor=e", "--base_url=x"], "must be like"),
  ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
  environment = {
    k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")
  }
  result = subprocess.run(
    [sys.executable, "-m", "instructedit_jax.instruct", *arguments],
    cwd=ROOT,
    env=environment | {"XDG_CACHE_HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert message in result.stderr.splitlines()[-1]
