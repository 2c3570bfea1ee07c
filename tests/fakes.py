"""Small stages to check recipes against, and helpers to write them down."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from pipeline.recipe import RecipeError, parse

SFT_ENGINES = ("ScriptArguments", "SFTConfig", "ModelConfig", "DatasetMixtureConfig")
GRPO_ENGINES = ("GRPOScriptArguments", "GRPOConfig", "ModelConfig", "DatasetMixtureConfig")
ON_CPU = {"use_cpu": True, "bf16": False}


@dataclasses.dataclass(kw_only=True)
class OwnKeys:
    output_dir: str = "trainer_output"  # as TRL has it
    sample_steps: int = dataclasses.field(default=50, metadata={"range": (1, None)})
    invalid_rows: Literal["stop", "drop"] = "stop"
    model_config: dict[str, Any] | None = None
    inputs: list[str] | None = None


def fake_stage(engines=(), arguments=OwnKeys, check=lambda recipe: [], **attributes):
    return SimpleNamespace(
        __name__="pipeline.stages.fake", Arguments=arguments, ENGINES=engines, INPUTS={}, check=check, **attributes
    )


SFT = fake_stage(SFT_ENGINES, ENGINE_CHOICES={"optim": ("muon",)})
GRPO = fake_stage(GRPO_ENGINES)
PLAIN = fake_stage()


def complaints_of(stage, values=None, *overrides):
    with pytest.raises(RecipeError) as caught:
        parse(stage, values or {}, "fake.yaml", overrides)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
