"""How every entry point starts: flags, configuration, errors, compile cache."""

import contextlib
import difflib
import importlib.util
import itertools
import logging as python_logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import ml_collections
from absl import app as absl_app
from absl import flags, logging
from ml_collections import config_flags

from instructedit_jax.errors import UserError
from instructedit_jax.parallel import processes

_ERROR_EXIT = 2
_INTERRUPT_EXIT = 130  # 128 + SIGINT, as shells count
_ALIKE = 0.65  # likeness from which a key is offered as the one meant
_CONFIG_FLAGS: dict[str, str | None] = {}  # config_flag's names and defaults
_DISTRIBUTED = "distributed"
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def config_flag(
  name: str = "config", default: str | None = None, help: str = ""
) -> flags.FlagHolder:
  """Defines --NAME=FILE.py[:ARG] with --NAME.KEY=VALUE overrides.

  The file's `get_config(arg)` returns an `ml_collections.ConfigDict`. The flag
  must be given unless it has a default, which is read when flags are parsed.
  The returned holder's `value` is the locked configuration.
  """
  _CONFIG_FLAGS[name] = default
  return config_flags.DEFINE_config_file(
    name, None, help or "Configuration file, FILE.py or FILE.py:ARG."
  )


def distributed_flag() -> flags.FlagHolder:
  """Defines --[no]distributed: whether `run` joins other processes.

  Not given, it does so where the environment speaks of several; see
  `processes.start`.
  """
  return flags.DEFINE_boolean(
    _DISTRIBUTED,
    None,
    "Join the other processes of this run; by default, where SLURM, Open MPI,"
    " TPU_WORKER_HOSTNAMES or JAX_NUM_PROCESSES name several.",
  )


def load_config(place: str) -> ml_collections.ConfigDict:
  """Returns `get_config()` of "FILE.py", or `get_config(ARG)` of "FILE.py:ARG".

  Raises:
    UserError: no such file, no `get_config` in it, an ARG it does not take, or
      one that it refuses with a ValueError.
  """
  name, colon, argument = place.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    raise UserError(f"{name}: no such configuration file.{_beside(path)}")
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise UserError(f"{name}: a configuration is a Python file (.py).")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UserError(f"{name}: defines no get_config() to call.")
  try:
    return module.get_config(*([argument] if colon else []))
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f"{place}: {error}") from error
  except TypeError as error:
    # Only a wrong number of arguments is the user's; the rest are defects.
    if "get_config()" not in str(error):
      raise
    what = "takes no argument" if colon else "needs an argument, FILE.py:ARG"
    raise UserError(f"{place}: its get_config {what}.") from error


def run(
  main: Callable[[Sequence[str]], Any], argv: Sequence[str] | None = None
) -> NoReturn:
  """Parses the flags, calls `main(argv)` and exits.

  A `UserError` is printed as one line and exits with 2, Ctrl-C exits with 130;
  anything else is a defect and shows its traceback. Compiled programs are kept
  on disk between runs. One of several processes leaves without waiting for the
  others when it fails.
  """
  try:
    absl_app.run(
      _prepared(main),
      argv=list(argv) if argv is not None else None,
      flags_parser=_parse_flags,
    )
  except UserError as error:
    message = " ".join(str(error).split())
    print(f"error: {message}", file=sys.stderr, flush=True)
    _leave(_ERROR_EXIT)
  except KeyboardInterrupt:
    print(
      "\ninterrupted: what was saved before is kept; the same command resumes"
      " where it can.",
      file=sys.stderr,
      flush=True,
    )
    _leave(_INTERRUPT_EXIT)
  except Exception:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    _leave(1)
  sys.exit(0)


def _leave(status: int) -> NoReturn:
  if jax.distributed.is_initialized():
    processes.leave(status)
  sys.exit(status)


def enable_compilation_cache() -> None:
  """Keeps programs that took a while to compile for the next process.

  They live under ${XDG_CACHE_HOME:-~/.cache}/instructedit_jax/xla; a place, or
  another while than a second, set through JAX's own options or variables wins.
  Without a writable place the run goes on without a cache.
  """
  if jax.config.values["jax_compilation_cache_dir"] is None:
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(root) / "instructedit_jax" / "xla"
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      logging.warning("%s: no compile cache (%s).", folder, error.strerror)
      return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _prepared(main: Callable[[Sequence[str]], Any]) -> Callable[..., Any]:
  def call(argv: Sequence[str]) -> Any:
    _plain_log()
    if len(argv) > 1:
      raise UserError(
        f"{argv[1]!r} is not an option. Options look like --name=value."
      )
    enable_compilation_cache()
    if _DISTRIBUTED in flags.FLAGS:
      processes.start(flags.FLAGS[_DISTRIBUTED].value)
    return main(argv)

  return call


class _OwnInformation(python_logging.Filter):
  """Drops what libraries tell step by step; their warnings stay."""

  def filter(self, record: python_logging.LogRecord) -> bool:
    own = record.pathname.startswith(_PACKAGE)
    library = f"{os.sep}site-packages{os.sep}" in record.pathname
    return own or not library or record.levelno >= python_logging.WARNING


def _plain_log() -> None:
  handler = logging.get_absl_handler()
  handler.setFormatter(
    python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
  )
  handler.addFilter(_OwnInformation())


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses `argv`; every complaint becomes a UserError.

  Options may be written with hyphens: --memory-gb is --memory_gb.
  """
  argv = [argv[0], *map(_with_underscores, argv[1:])]
  if not any(re.fullmatch(r"--?help\w*", arg) for arg in argv[1:]):
    for name, default in _CONFIG_FLAGS.items():
      given = _given_config(name, argv)
      if given is None and default is not None:
        argv = [argv[0], f"--{name}={default}", *argv[1:]]
      _check_config(name, given or default, argv)
  try:
    # ml_collections looks for overrides in sys.argv, whatever it is handed.
    with _as_command_line(argv):
      return flags.FLAGS(list(argv))
  except flags.Error as error:
    text = " ".join(str(error).split())
    raise UserError(f"{text} (--help lists the options.)") from error


def _with_underscores(arg: str) -> str:
  name, equals, value = arg.partition("=")
  plain = name.replace("-", "_").lstrip("_")
  if name.startswith("--") and plain in flags.FLAGS:
    return f"--{plain}{equals}{value}"
  return arg


@contextlib.contextmanager
def _as_command_line(argv: Sequence[str]) -> Iterator[None]:
  old, sys.argv = sys.argv, list(argv)
  try:
    yield
  finally:
    sys.argv = old


def _given_config(name: str, argv: Sequence[str]) -> str | None:
  """The FILE.py[:ARG] that the command line names last."""
  place = None
  for before, argument in _pairs(argv):
    match = re.match(rf"--?{name}=(.*)$", argument, re.DOTALL)
    place = match[1] if match else place
    if before in (f"--{name}", f"-{name}"):
      place = argument
  return place


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Each option with the word in front of it, up to a bare "--"."""
  for before, argument in itertools.pairwise([*argv, ""]):
    if argument == "--":
      return
    yield before, argument


def _check_config(name: str, place: str | None, argv: Sequence[str]) -> None:
  """Loads a configuration ahead, to name what is wrong with it plainly."""
  found = (
    re.match(rf"--?(?:no)?{name}\.([^=]+)", argument)
    for _, argument in _pairs(argv)
  )
  overrides = [match[1] for match in found if match]
  if place is None:
    raise UserError(
      f"--{name}=FILE.py is missing.{_beside(pathlib.Path('configs') / '_')}"
    )
  config = load_config(place)
  for override in overrides:
    _require_key(place, name, override, config)


def _require_key(
  place: str, name: str, key: str, config: Mapping[str, Any]
) -> None:
  """Walks "model.layers" down from the root; list items are model.layers[0]."""
  known = _keys(config)
  plain = re.sub(r"\[\d+\]", "", key)
  if plain in known:
    return
  scores = {other: _likeness(plain, other) for other in known}
  best = max([_ALIKE, *(score - 0.1 for score in scores.values())])
  close = [other for other in known if scores[other] >= best][:3]
  hint = (
    f"Did you mean {' or '.join(f'--{name}.{other}' for other in close)}?"
    if close
    else f"Its keys are {', '.join(sorted(config))}."
  )
  raise UserError(f"--{name}.{key}: {place} has no such key. {hint}")


def _likeness(key: str, other: str) -> float:
  """0 to 1; "rnak" may be meant for "editor.rank", so last parts count too."""
  pairs = [(key, other), (key.rpartition(".")[2], other.rpartition(".")[2])]
  return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _keys(config: Any, prefix: str = "") -> list[str]:
  if not isinstance(config, ml_collections.ConfigDict | dict):
    return []
  names = []
  for key, value in config.items():
    names += [prefix + key, *_keys(value, f"{prefix}{key}.")]
  return names


def _beside(path: pathlib.Path) -> str:
  """A sentence naming the configurations in the folder of `path`."""
  names = sorted(p.name for p in path.parent.glob("*.py"))
  near = difflib.get_close_matches(path.name, names, n=1)
  if near:
    return f" Did you mean {(path.parent / near[0]).as_posix()}?"
  shown = [name for name in names if not name.startswith("_")]
  return f" There are {', '.join(shown)} in {path.parent}/." if shown else ""
