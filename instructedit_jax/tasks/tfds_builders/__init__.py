"""The edit tasks as a TensorFlow Datasets builder; needs no TensorFlow."""

from instructedit_jax.tasks.tfds_builders.edit_tasks import (
  EditTaskConfig,
  EditTasks,
  tfds_records,
)

__all__ = ["EditTaskConfig", "EditTasks", "tfds_records"]
