"""The pocket tokenizer and models: reproducible, loadable offline, in OLMo-2's proportions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.distill.arguments import run_stage
from harness.distill.pocket_models import PocketModels, make, new_model, pocket_config
from harness.distill.pocket_tasks import FAMILIES, examples
from harness.distill.pocket_tokenizer import CHAT_TEMPLATE, VOCABULARY, train_tokenizer
from harness.errors import KitError
from harness.models.shapes import OLMO2, POCKET

PUBLISHED = {"1b": 1.485e9, "7b": 7.298e9, "13b": 13.715e9, "32b": 32.233e9}


def test_the_tokenizer_is_the_same_in_another_process() -> None:
    code = (
        "from harness.distill.pocket_tokenizer import train_tokenizer;"
        "print(train_tokenizer(examples_per_family=300).backend_tokenizer.to_str())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == train_tokenizer(examples_per_family=300).backend_tokenizer.to_str()


def test_a_made_folder_loads_offline_with_its_template(tmp_path: Path) -> None:
    config = PocketModels(out=tmp_path, names=["pocket-1b"])
    (folder,) = make(config)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert 0.9 * VOCABULARY < len(tokenizer) <= VOCABULARY and tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.pad_token_id == 1 and tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    for family in FAMILIES:
        for example in examples(family, "train", 20, 0):
            for message in example["messages"]:
                ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
                assert tokenizer.decode(ids) == message["content"]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    for name, weight in new_model("pocket-1b", seed=0).state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    make(config)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_words_of_the_tasks_are_single_tokens() -> None:
    tokenizer = train_tokenizer()
    for text in (
        "Sort the words: wolf pear 17",
        "Say every word twice: oak",
        "Name the last word: bird BIRD",
    ):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert len(pieces) == len(text.split()) + text.count(":") + 2 * text.count("17"), pieces


@pytest.mark.parametrize("name", POCKET)
def test_models_have_the_stated_size_and_olmo2s_proportions(name: str) -> None:
    small, large = POCKET[name], OLMO2[name.removeprefix("pocket-")]
    model = new_model(name, seed=0)
    assert sum(weight.numel() for weight in model.parameters()) == small.parameters
    assert large.parameters == pytest.approx(PUBLISHED[name.removeprefix("pocket-")], rel=1e-3)
    assert small.heads / small.kv_heads == large.heads / large.kv_heads
    assert small.mlp / small.width == pytest.approx(large.mlp / large.width, rel=0.01)
    smallest, largest = POCKET["pocket-32b"], OLMO2["32b"]
    assert small.width / smallest.width == pytest.approx(large.width / largest.width, rel=0.01)
    assert small.layers / smallest.layers == pytest.approx(large.layers / largest.layers, rel=0.35)
    assert model.config.architectures in (None, ["Olmo2ForCausalLM"])


def test_weights_come_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (new_model("pocket-1b", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KitError, match="no pocket model 'pocket-3b'"):
        pocket_config("pocket-3b")
    assert run_stage(PocketModels, make, ["--out", str(tmp_path), "--names", "pocket-3b"]) == 2
    assert "expected: one of pocket-1b" in capsys.readouterr().err
