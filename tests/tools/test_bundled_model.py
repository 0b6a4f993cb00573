"""The bundled checkpoint computes what the published model computes, and is built whole or not at
all.
"""

import json

import pytest
import torch

from amoeba_sglang.errors import ConfigError
from tools import bundled_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundled") / "model"
    assert bundled_model.build(out)
    return out


@torch.inference_mode()
def test_padded_model_is_the_same_function(checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = bundled_model.SourceModel(bundled_model.find_gguf())
    original = LlamaForCausalLM(LlamaConfig(**source.config))
    missing, unexpected = original.load_state_dict(source.weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    original.tie_weights()
    padded = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    text = "The capital of France is Paris. In 1989, the wall came down and the people"
    tokens = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt").input_ids
    before, after = original.eval()(tokens).logits, padded.eval()(tokens).logits
    assert (before.argmax(-1) == after.argmax(-1)).all()
    magnitude = float(before.abs().max())
    assert magnitude > 10
    assert float((before - after).abs().max()) < 1e-5 * magnitude


def test_heads_divide_by_four(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (12, 4)
    assert config["head_dim"] == 64


def test_tokenizer_round_trips_and_ends_a_chat_turn(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = "In 1989 I've 2 cats  and\n\tünïcode — 東京 <|im_start|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert [tokenizer.decode([t]) for t in tokenizer("1989").input_ids] == ["1", "9", "8", "9"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == "<|im_end|>"


def test_complete_checkpoint_is_kept(checkpoint):
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert not bundled_model.build(checkpoint)
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before


def test_foreign_directory_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="OUT_DIR"):
        bundled_model.build(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, out):
        raise RuntimeError("disk full")

    monkeypatch.setattr(bundled_model.SourceModel, "write_tokenizer", fail)
    monkeypatch.setattr(bundled_model, "pad_heads", lambda config, weights: (config, {}))
    with pytest.raises(RuntimeError, match="disk full"):
        bundled_model.build(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
