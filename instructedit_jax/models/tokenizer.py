"""Text to token ids and back, whatever the checkpoint's format."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from instructedit_jax.errors import UserError

# Tokens that end a text in the supported families, besides the declared one.
_END_TOKENS = (
  "<|endoftext|>",
  "<|im_end|>",
  "<|eot_id|>",
  "<|end_of_text|>",
  "</s>",
)
# Everything a tokenizer may need; copied as it is when a model is saved.
_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
)
_BYTE_SPECIALS = 16


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A fast tokenizer with what generation and scoring need to know.

  Attributes:
    core: the `tokenizers` object; used without its own special tokens.
    name: where it came from.
    bos_ids: ids put in front of every text (Llama 2: <s>); often empty.
    eos_ids: ids that end a generated text.
    pad_id: filler of padded positions; never attended to.
    special: what transformers' tokenizer_config.json says of special tokens,
      e.g. eos_token -> "</s>", and the chat_template if there is one.
    files: the directory it was read from, None if it was built.
  """

  core: tokenizers.Tokenizer
  name: str
  bos_ids: tuple[int, ...] = ()
  eos_ids: frozenset[int] = frozenset()
  pad_id: int = 0
  special: Mapping[str, str] = dataclasses.field(default_factory=dict)
  files: pathlib.Path | None = None

  @functools.cached_property
  def vocab(self) -> int:
    """One more than the largest id."""
    return max(self.core.get_vocab(with_added_tokens=True).values()) + 1

  def encode(self, text: str, *, bos: bool = True) -> list[int]:
    """Token ids of a text, with the family's BOS in front unless not `bos`."""
    ids = self.core.encode(text, add_special_tokens=False).ids
    return [*(self.bos_ids if bos else ()), *ids]

  def decode(self, ids: Sequence[int] | Any) -> str:
    """Text of token ids, special tokens left out."""
    return self.core.decode([int(i) for i in ids], skip_special_tokens=True)

  def spell(self, ids: Sequence[int] | Any) -> str:
    """Text of token ids, special tokens by their names.

    For readers: a model that ends its turn where an answer should begin has
    said something.
    """
    return self.core.decode([int(i) for i in ids], skip_special_tokens=False)

  def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
    """Text that `ids` add after the ids `before`.

    Tokenizers in the manner of sentencepiece drop a leading space from
    whatever they decode, so a continuation cannot be decoded by itself.
    """
    start = self.decode(before)
    whole = self.decode([*before, *ids])
    if whole.startswith(start):
      return whole[len(start) :]
    return self.decode(ids)

  def encode_pair(self, prompt: str, target: str) -> tuple[list[int], int]:
    """Tokenises prompt, a space and target as one text.

    A space that is a token of its own (in front of a digit, for many
    tokenizers) belongs to the target: asked the prompt alone, the model has to
    say it too.

    Returns:
      The ids (BOS in front where the family has one) and the index of the
      first token behind the prompt; the number of ids for an empty target.
    """
    encoding = self.core.encode(f"{prompt} {target}", add_special_tokens=False)
    behind = (
      i for i, (_, end) in enumerate(encoding.offsets) if end > len(prompt)
    )
    start = next(behind, len(encoding.ids)) if target else len(encoding.ids)
    return [*self.bos_ids, *encoding.ids], len(self.bos_ids) + start

  def check(self, vocab: int) -> None:
    """Raises UserError if an id would fall outside an embedding of `vocab`."""
    if self.vocab > vocab:
      raise UserError(
        f"{self.name}: the tokenizer has {self.vocab} tokens but the model's"
        f" embedding only {vocab}; they do not belong together"
      )

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes the files transformers' AutoTokenizer wants into `directory`."""
    target = pathlib.Path(directory)
    if self.files is not None:
      for name in _FILES:
        if (self.files / name).is_file():
          shutil.copyfile(self.files / name, target / name)
      return
    core = tokenizers.Tokenizer.from_str(self.core.to_str())
    if self.bos_ids:
      core.post_processor = _prepend(core, self.bos_ids)
    core.save(str(target / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / "tokenizer_config.json").write_text(text, encoding="utf-8")


def byte_tokenizer() -> Tokenizer:
  """One token a byte and 16 special ones: 272 ids, no file needed."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  core = tokenizers.Tokenizer(
    models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[])
  )
  core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  core.decoder = decoders.ByteLevel()
  end = "<|endoftext|>"
  spare = [f"<|spare_{i}|>" for i in range(1, _BYTE_SPECIALS)]
  core.add_special_tokens(
    [tokenizers.AddedToken(token, special=True) for token in (end, *spare)]
  )
  end_id = _id(core, end)
  return Tokenizer(
    core,
    "byte-level",
    eos_ids=frozenset({end_id}),
    pad_id=end_id,
    special={"eos_token": end, "pad_token": end},
  )


def from_directory(
  directory: str | os.PathLike[str], eos_ids: Sequence[int] = ()
) -> Tokenizer:
  """The tokenizer of a transformers checkpoint directory.

  Args:
    directory: holds tokenizer.json, or vocab.json and merges.txt, or
      tokenizer.model.
    eos_ids: end-of-text ids that the model's configs declare.

  Raises:
    UserError: the files are missing or transformers cannot read them.
  """
  path = pathlib.Path(directory)
  held = {name for name in _FILES if (path / name).is_file()}
  if not (
    held & {"tokenizer.json", "tokenizer.model"}
    or {"vocab.json", "merges.txt"} <= held
  ):
    raise UserError(
      f"{path}: no tokenizer there: tokenizer.json (or vocab.json with"
      " merges.txt, or tokenizer.model) is missing. Copy it beside the"
      " weights, or pass tokenizer= a directory that has one, or"
      " tokenizer=None to work with token ids only."
    )
  # Imported late: it takes seconds, and only this path needs it.
  import transformers

  try:
    theirs = transformers.AutoTokenizer.from_pretrained(str(path))
  except Exception as error:  # whatever a third-party parser may raise
    raise UserError(
      f"{path}: transformers cannot read the tokenizer ({error})"
    ) from error
  if not theirs.is_fast:
    raise UserError(
      f"{path}: only fast tokenizers are supported; save the tokenizer with"
      " a tokenizer.json"
    )
  core = theirs.backend_tokenizer
  core.no_padding()
  core.no_truncation()
  ends = {*eos_ids, theirs.eos_token_id} - {None}
  first = min(ends) if ends else 0
  special = {
    key: str(token)
    for key, token in theirs.special_tokens_map.items()
    if isinstance(token, str)
  }
  return Tokenizer(
    core,
    str(path),
    bos_ids=_added_in_front(theirs),
    eos_ids=frozenset(ends),
    pad_id=first if theirs.pad_token_id is None else theirs.pad_token_id,
    special=special,
    files=path,
  )


def from_gguf(file: Any) -> Tokenizer:
  """The byte-level BPE tokenizer in a GGUF file's metadata.

  Args:
    file: a `gguf.GgufFile`.

  Raises:
    UserError: the file's tokenizer is of another kind.
  """
  kind = file.field("tokenizer.ggml.model")
  split = file.field("tokenizer.ggml.pre")
  if kind != "gpt2" or split not in ("smollm", "gpt-2"):
    raise UserError(
      f"{file.name}: its tokenizer ({kind}, {split}) cannot be rebuilt from"
      " the GGUF file. Pass tokenizer= a directory that holds the model's"
      " tokenizer.json, or load the transformers checkpoint."
    )
  tokens = file.field("tokenizer.ggml.tokens")
  merges = file.field("tokenizer.ggml.merges")
  types = file.field("tokenizer.ggml.token_type", [1] * len(tokens))
  core = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: i for i, token in enumerate(tokens)},
      merges=[tuple(merge.split(" ")) for merge in merges],
    )
  )
  bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  digits = pre_tokenizers.Digits(individual_digits=True)
  smollm = pre_tokenizers.Sequence([digits, bytes_])
  core.pre_tokenizer = smollm if split == "smollm" else bytes_
  core.decoder = decoders.ByteLevel()
  # Token type 3 marks control tokens.
  control = [
    token for token, type_ in zip(tokens, types, strict=True) if type_ == 3
  ]
  core.add_special_tokens(
    [tokenizers.AddedToken(token, special=True) for token in control]
  )
  special = {}
  for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
    index = file.field(f"tokenizer.ggml.{key}_token_id")
    if index is not None:
      special[f"{name}_token"] = tokens[index]
  template = file.field("tokenizer.chat_template")
  if template is not None:
    special["chat_template"] = template
  ends = {*_END_TOKENS} & {*control}
  if "eos_token" in special:
    ends.add(special["eos_token"])
  bos = file.field("tokenizer.ggml.add_bos_token", False)
  return Tokenizer(
    core,
    file.name,
    bos_ids=(_id(core, special["bos_token"]),) if bos else (),
    eos_ids=frozenset(_id(core, token) for token in ends),
    pad_id=int(file.field("tokenizer.ggml.padding_token_id", 0)),
    special=special,
  )


def _added_in_front(theirs: Any) -> tuple[int, ...]:
  """The special ids that a transformers tokenizer puts before a text."""
  bare = theirs("a", add_special_tokens=False)["input_ids"]
  full = theirs("a")["input_ids"]
  for i in range(len(full) - len(bare) + 1):
    if full[i : i + len(bare)] == bare:
      return tuple(full[:i])
  return ()


def _id(core: tokenizers.Tokenizer, token: str) -> int:
  index = core.token_to_id(token)
  if index is None:
    raise UserError(f"special token {token!r} is not in the vocabulary")
  return index


def _prepend(
  core: tokenizers.Tokenizer, ids: Sequence[int]
) -> processors.TemplateProcessing:
  tokens = [str(core.id_to_token(i)) for i in ids]
  template = " ".join([*tokens, "$A"])
  return processors.TemplateProcessing(
    single=template, special_tokens=list(zip(tokens, ids, strict=True))
  )
