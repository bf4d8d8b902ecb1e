"""The edit tasks: records, their instructions, mixtures and rewordings."""

from instructedit_jax.tasks.augment import paraphrases, rephrase
from instructedit_jax.tasks.instructions import (
  POOLS,
  Instruction,
  InstructionPool,
  draw,
  fixed,
  load_pools,
)
from instructedit_jax.tasks.loading import load_records
from instructedit_jax.tasks.mixture import Mixture
from instructedit_jax.tasks.record import TASKS, Conversation, Probe, Record
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.tasks.validation import ValidationReport

__all__ = [
  "POOLS",
  "TASKS",
  "Conversation",
  "Instruction",
  "InstructionPool",
  "Mixture",
  "Probe",
  "Record",
  "ValidationReport",
  "draw",
  "fixed",
  "load_pools",
  "load_records",
  "load_split",
  "paraphrases",
  "rephrase",
]
