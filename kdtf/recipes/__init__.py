"""Whole pipelines, built from the other rooms."""

from kdtf.recipes.demo import run_demo

__all__ = ["run_demo"]
