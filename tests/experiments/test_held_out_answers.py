"""Synthetic SFT stops early by held-out answers, so some of the answered questions are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.distill.preprocess import PreprocessConfig, _split
from harness.distill.sources import Conversation
from harness.experiments.profile import load_profile, profile_names

OWN = str(Path(__file__).resolve().parents[2] / "examples" / "own_models" / "smollm2.yaml")


def split_by(settings: dict[str, object], conversations: list[Conversation]) -> list[str]:
    known = {name: settings[name] for name in ("seed", "validation_fraction")}
    config = PreprocessConfig(out=Path("out"), tokenizer=Path("tokenizer"), sources=[], **known)  # type: ignore[arg-type]
    return [_split(conversation, config) for conversation in conversations]


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "pocket"] + [OWN])
def test_answers_to_questions_of_the_training_split_are_held_out_too(name: str) -> None:
    profile = load_profile(name)
    asked = [
        Conversation(str(n), "one", [{"role": "user", "content": f"question {n}"}]) for n in range(20_000)
    ]
    splits = split_by(profile.settings("preprocess"), asked)
    answered = [one for one, split in zip(asked, splits, strict=True) if split == "train"]
    assert 0 < len(answered) < len(asked)
    settings = profile.settings("preprocess_synthetic")
    share = split_by(settings, answered).count("validation") / len(answered)
    assert share == pytest.approx(settings["validation_fraction"], rel=0.25)
