import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from amoeba_sglang.errors import ConfigError
from bench.prompts import PromptMaker

LETTERS = "abcdefghij"
WORDS = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS[:3]]


def make_tokenizer(words, begin=False):
    """A tokenizer of whole words, with a token before every text if `begin`."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "?", "a", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if begin:
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?", bos_token="<s>")


@pytest.mark.parametrize("begin", [False, True])
def test_prompts_have_exactly_the_tokens_asked_for(begin):
    tokenizer = make_tokenizer(WORDS, begin)
    prompts = PromptMaker(tokenizer)
    for number, tokens in enumerate((2, 3, 17, 5000)):
        assert len(tokenizer(prompts.make(number, tokens)).input_ids) == tokens


def test_a_prompt_depends_on_seed_and_number_only():
    tokenizer = make_tokenizer(WORDS)
    assert PromptMaker(tokenizer, 1).make(7, 50) == PromptMaker(tokenizer, 1).make(7, 50)
    assert PromptMaker(tokenizer, 1).make(7, 50) != PromptMaker(tokenizer, 1).make(8, 50)
    assert PromptMaker(tokenizer, 1).make(7, 50) != PromptMaker(tokenizer, 2).make(7, 50)


def test_a_tokenizer_without_words_is_refused():
    with pytest.raises(ConfigError, match="only 4 words"):
        PromptMaker(make_tokenizer(WORDS[:4]))
