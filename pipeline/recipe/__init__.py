"""Recipes: one flat YAML file is one stage's run, checked as a whole before anything is trained.

source.py        YAML and `--key value` overrides to plain values, each with the place where it was written
values.py        a plain value against a type annotation, a list of choices and a range
keys.py          the keys of a stage: its own `Arguments` and the fields of TRL's dataclasses
engine_rules.py  what TRL's dataclasses leave unsaid: ranges, choices, the names that other versions used
combinations.py  values that are right one by one and wrong together
folder.py        a folder of recipes as one run: who reads whose output
parents.py        what a recipe reads from other stages
parse.py         all of it: `parse` returns a `Recipe` or raises one `RecipeError` with every complaint
schema.py        the same keys as a JSON Schema for editors
"""

from pipeline.recipe.parse import Recipe, check, examine, parse
from pipeline.recipe.schema import json_schema
from pipeline.recipe.source import Complaint, RecipeError, Source, read_source, read_yaml

__all__ = [
    "Complaint",
    "Recipe",
    "RecipeError",
    "Source",
    "check",
    "examine",
    "json_schema",
    "parse",
    "read_source",
    "read_yaml",
]
