"""Recipe files: a model, data and steps, checked, run and kept."""

from kdtf.recipes.recipe_files.running import run_recipe

__all__ = ["run_recipe"]
