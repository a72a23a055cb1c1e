import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.judges.model import ModelJudge
from fgaa_utils.project import MODEL

LOVE = read_behaviours(["love"])
TEXTS = [
    "I love you.",
    "A red bus",
    "I love you.",
    "one two three four five six seven eight nine ten eleven twelve",
    "x",
]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[reply] {% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random chat model with a character tokenizer, on disk."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("chat")
    names = ["<eos>", "<unk>", *sorted(set(map(chr, range(32, 127))) | {"\n"})]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    config = Qwen2Config(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.5,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def naive(folder, judge, criterion, text):
    """One text alone, the whole prompt in one pass, no cache and no padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before, after = judge.prompt_parts(criterion)
    ids = tokenizer(before + text + after, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = model(ids).logits[0, -1].softmax(dim=0)
    digits = [p[tokenizer.convert_tokens_to_ids(str(d))].item() for d in range(10)]
    return sum(d * q for d, q in enumerate(digits)) / sum(digits) / 9, sum(digits)


def test_scores_are_the_expected_digit_of_a_plain_pass(folder):
    judge = ModelJudge(folder, LOVE, dtype="float32")
    for criterion, scores in (("love", judge.behaviour(TEXTS, "love")), ("coherence", judge.coherence(TEXTS))):
        expected = [naive(folder, judge, criterion, text)[0] for text in TEXTS]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert len(set(np.round(scores, 6))) == 4 and ((scores > 0) & (scores < 1)).all()
    masses = [naive(folder, judge, c, text)[1] for c in ("love", "coherence") for text in sorted(set(TEXTS))]
    assert judge.mass() == pytest.approx(np.mean(masses), abs=1e-5)


def test_a_score_does_not_depend_on_the_other_texts(folder):
    together = ModelJudge(folder, LOVE, dtype="float32").coherence(TEXTS)
    alone = ModelJudge(folder, LOVE, dtype="float32")
    assert [alone.coherence([text])[0] for text in TEXTS] == together.tolist()


def test_a_batch_that_does_not_fit_is_judged_in_parts(folder, monkeypatch, capsys):
    whole = ModelJudge(folder, LOVE, dtype="float32").coherence(TEXTS)
    judge = ModelJudge(folder, LOVE, dtype="float32")
    real = judge.model.forward

    def forward(*args, **kwargs):
        if len(kwargs["input_ids"]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(judge.model, "forward", forward)
    np.testing.assert_allclose(judge.coherence(TEXTS), whole, atol=1e-6)
    assert "going on with 4 rows at a time" in capsys.readouterr().out


def test_the_prompt_carries_the_description_and_the_text_once(folder):
    before, after = ModelJudge(folder, LOVE).prompt_parts("love")
    assert LOVE[0].description in before and before.endswith("<text>\n") and after.startswith("\n</text>")
    assert after.rstrip().endswith("[reply]") and "digit" in after


def test_a_model_without_a_chat_template_gets_plain_text(folder):
    judge = ModelJudge(folder, LOVE)
    judge.tokenizer.chat_template = None
    before, after = judge.prompt_parts("coherence")
    assert after.endswith("Grade: ") and "[reply]" not in after


def test_an_unknown_behaviour_is_refused(folder):
    judge = ModelJudge(folder, LOVE)
    for name in ("lov", "coherence"):
        with pytest.raises(ValueError, match=f"unknown behaviour {name!r}"):
            judge.behaviour(["x"], name)


def test_a_tokenizer_that_splits_digits_is_refused(folder, monkeypatch):
    monkeypatch.setattr(ModelJudge, "_ids", lambda self, text: [3, 4] if text == "7" else [5])
    with pytest.raises(ValueError, match="does not write every digit as one token"):
        ModelJudge(folder, LOVE)


@pytest.mark.real
def test_the_real_instruct_model_answers_with_digits():
    judge = ModelJudge(MODEL / "smollm2-135m-instruct", LOVE)
    scores = judge.behaviour(["I love you with all my heart.", "The train leaves at nine."], "love")
    assert ((scores > 0) & (scores < 1)).all() and scores[0] != scores[1]
    assert judge.mass() > 0.05  # so small a model follows the instruction poorly; ten tokens by chance: 0.0002
