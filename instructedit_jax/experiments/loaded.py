"""The base model as editors need it, loaded once for each suffix."""

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.models.language_model import LanguageModel, load_model


class Models:
  """Models with their prefix states.

  Args:
    name: of the base model.
    dtype: of its weights.
  """

  def __init__(self, name: str, dtype: str):
    self._name, self._dtype = name, dtype
    self._held: dict[int, tuple[LanguageModel, PrefixCache]] = {}

  def __call__(
    self, editor: TrainedEditor
  ) -> tuple[LanguageModel, PrefixCache]:
    """The model with this editor's suffix, and its cache."""
    suffix = editor.suffix
    if suffix not in self._held:
      model = load_model(self._name, dtype=self._dtype, suffix=suffix)
      self._held[suffix] = (model, PrefixCache(model))
    return self._held[suffix]
