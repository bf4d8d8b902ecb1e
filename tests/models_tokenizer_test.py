"""Token ids, offsets and round trips."""

import json

import pytest
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  trainers,
)

from instructedit_jax.errors import UserError
from instructedit_jax.models.tokenizer import (
  Tokenizer,
  byte_tokenizer,
  from_directory,
)

TEXTS = (
  "The capital of France is Paris.",
  "In 2024 there were 1,234 cases\n\n  and tabs\t too",
  "naïve façade: 東京 😀",
  "I'll say we've",
)


def metaspace() -> Tokenizer:
  """A small tokenizer in Llama 2's manner: BOS, prepended space marks."""
  core = tokenizers.Tokenizer(
    models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
  )
  core.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
  )
  trainer = trainers.BpeTrainer(
    vocab_size=120,
    special_tokens=["<unk>", "<s>", "</s>"],
    show_progress=False,
  )
  # Words are kept apart in training only, as sentencepiece does.
  core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
  core.train_from_iterator(TEXTS * 3 + ("is Paris is Paris",), trainer)
  core = tokenizers.Tokenizer.from_str(
    json.dumps({**json.loads(core.to_str()), "pre_tokenizer": None})
  )
  core.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  bos, eos = core.token_to_id("<s>"), core.token_to_id("</s>")
  return Tokenizer(
    core,
    "metaspace",
    bos_ids=(bos,),
    eos_ids=frozenset({eos}),
    special={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
  )


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text):
  for tokenizer in (byte_tokenizer(), metaspace()):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tuple(ids[: len(tokenizer.bos_ids)]) == tokenizer.bos_ids
    bare = tokenizer.encode(text, bos=False)
    assert [*tokenizer.bos_ids, *bare] == ids


@pytest.mark.parametrize("make", [byte_tokenizer, metaspace])
@pytest.mark.parametrize(
  ("prompt", "target"),
  [
    ("The capital of France is", "Paris"),
    ("The capital of France is ", "Paris"),
    ("naïve 東京", "façade 😀"),
    ("", "Paris"),
    ("is", " Paris"),
  ],
)
def test_pair_is_tokenised_jointly(make, prompt, target):
  tokenizer = make()
  ids, start = tokenizer.encode_pair(prompt, target)
  assert ids == tokenizer.encode(f"{prompt} {target}")
  # Everything in front of `start` is the prompt, everything else the target
  # and the joining space.
  assert ids[:start] == tokenizer.encode(prompt)
  whole = tokenizer.decode_after(ids[:start], ids[start:])
  assert whole.strip() == target.strip()


def test_pair_start_by_hand():
  tokenizer = byte_tokenizer()
  ids, start = tokenizer.encode_pair("ab", "cd")
  assert (len(ids), start) == (5, 2)
  assert tokenizer.encode_pair("é", "c")[1] == 2
  ids, start = tokenizer.encode_pair("ab", "")
  assert start == len(ids)


def test_special_tokens_are_left_out_or_spelt():
  tokenizer = metaspace()
  ids = [*tokenizer.encode("Paris", bos=False), *tokenizer.eos_ids]
  assert tokenizer.decode(ids) == "Paris"
  assert tokenizer.spell(ids) == "Paris</s>"


def test_continuation_keeps_its_leading_space():
  tokenizer = metaspace()
  prompt = tokenizer.encode("France is")
  ids = tokenizer.encode("France is Paris")[len(prompt) :]
  assert tokenizer.decode(ids) == "Paris"
  assert tokenizer.decode_after(prompt, ids) == " Paris"


@pytest.mark.parametrize("make", [byte_tokenizer, metaspace])
def test_saved_files_mean_the_same_to_transformers(make, tmp_path):
  transformers = pytest.importorskip("transformers")
  tokenizer = make()
  tokenizer.save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  again = from_directory(tmp_path)
  for text in TEXTS:
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert again.encode(text) == ids
    assert again.decode(ids) == text
  assert again.bos_ids == tokenizer.bos_ids
  assert again.eos_ids == tokenizer.eos_ids
  assert again.vocab == tokenizer.vocab
  again.save(tmp_path.parent)
  assert from_directory(tmp_path.parent).encode("a b") == again.encode("a b")


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path):
  tokenizer = byte_tokenizer()
  tokenizer.core.enable_truncation(4)
  tokenizer.core.enable_padding(length=9)
  tokenizer.save(tmp_path)
  again = from_directory(tmp_path)
  assert len(again.encode("abcdefgh")) == 8
  assert len(again.encode("ab")) == 2


def test_declared_ends_are_added(tmp_path):
  byte_tokenizer().save(tmp_path)
  assert from_directory(tmp_path, [3, 4]).eos_ids == {3, 4, 256}


def test_sizes():
  tokenizer = byte_tokenizer()
  assert tokenizer.vocab == 272
  tokenizer.check(272)
  with pytest.raises(UserError, match=r"272 tokens but .* only 271"):
    tokenizer.check(271)


def test_missing_and_damaged_files(tmp_path):
  with pytest.raises(UserError, match="no tokenizer there"):
    from_directory(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match="cannot read the tokenizer"):
    from_directory(tmp_path)
