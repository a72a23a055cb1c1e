"""Reading of texts: batches, an oracle for the likelihoods, errors; with a tiny random model, the real ones if marked."""

import numpy as np
import pytest
import torch

from fgaa_utils.judges.readers import LANES, STEP, Embedder, LanguageId, Reference, fold, padded_batches
from fgaa_utils.project import MODEL, RAW

TEXTS = [
    "the cat sat on the mat",
    "we love rain",
    "dog",
    "a red dog ran in the sun and the rain and sat on a mat " * 3,
]


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    tiny.hf.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return Reference(folder)


def test_batches_cover_all_rows_once_and_pad_right():
    rows = [list(range(1, n + 1)) for n in (3, 20, 8, 9, 1, *[5] * 2 * LANES)]
    seen = []
    for numbers, ids, mask in padded_batches(rows, pad=0):
        for lane, number in enumerate(numbers):
            assert ids[lane, mask[lane].bool()].tolist() == rows[number]
            assert mask[lane].tolist() == sorted(mask[lane].tolist(), reverse=True)
        seen += numbers
    assert sorted(seen) == list(range(len(rows)))


def test_shape_of_a_batch_depends_on_the_row_alone():
    row = [7] * (STEP + 1)
    alone = next(padded_batches([row], pad=0))
    rows = [[1] * n for n in range(1, 60)] + [row]
    among = next(batch for batch in padded_batches(rows, pad=0) if 59 in batch[0])
    assert alone[1].shape == among[1].shape == (LANES, 2 * STEP)


def test_likelihoods_and_residuals_match_one_text_at_a_time(reference):
    nll, resid = reference.read(TEXTS)
    for text, row, middle in zip(TEXTS, nll, resid):
        ids = [
            reference.tokenizer.bos_token_id,
            *reference.tokenizer(text, add_special_tokens=False)["input_ids"],
        ]
        with torch.no_grad():
            out = reference.model(torch.tensor([ids]), output_hidden_states=True)
        expected = [-out.logits[0, i].float().log_softmax(0)[ids[i + 1]].item() for i in range(len(ids) - 1)]
        np.testing.assert_allclose(row, expected, atol=0.05)  # bfloat16
        np.testing.assert_allclose(middle, out.hidden_states[3][0, 1:].float().mean(0), atol=0.05)


def test_reading_does_not_depend_on_companions_order_or_white_space(reference):
    nll, resid = reference.read(TEXTS)
    for i in (3, 0, 2):
        alone, its_resid = reference.read([TEXTS[i].replace(" ", " \n ")])
        assert np.array_equal(alone[0], nll[i])
        assert np.array_equal(its_resid[0], resid[i])


def test_an_empty_text_has_no_likelihoods(reference):
    nll, resid = reference.read(["", "dog"])
    assert len(nll[0]) == 0
    assert len(nll[1]) == 1
    assert not resid[0].any()


def test_fold_makes_one_blank():
    assert fold(" a\n\n b\t c ") == "a b c"


@pytest.mark.parametrize(("reader", "stage"), [(Embedder, "fetch"), (Reference, "model"), (LanguageId, "fetch")])
def test_a_missing_model_names_the_stage(reader, stage, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"absent.*dvc repro {stage}"):
        reader(tmp_path / "absent")


@pytest.mark.real
def test_embeddings_are_of_length_one_and_do_not_depend_on_companions():
    embedder = Embedder(RAW / "minilm")
    found = embedder.read(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(embedder.read(TEXTS[2:3])[0], found[2])
    wedding, bride, flour = embedder.read(["They married on Saturday.", "The bride wore white.", "Add the flour."])
    assert wedding @ bride > wedding @ flour


@pytest.mark.real
def test_the_reference_model_does_not_depend_on_companions():
    reference = Reference(MODEL / "smollm2-135m-instruct")
    nll, resid = reference.read(TEXTS)
    alone, its_resid = reference.read(TEXTS[:1])
    assert np.array_equal(alone[0], nll[0])
    assert np.array_equal(its_resid[0], resid[0])
    assert nll[0].mean() < np.concatenate(reference.read(["mat the on sat cat the"])[0]).mean()


@pytest.mark.real
def test_language_identification_folds_lines_and_knows_its_languages():
    language_id = LanguageId(RAW / "lid" / "lid.176.ftz")
    french, english = language_id.probability(["Je crois qu'il\n\nva pleuvoir demain.", "I think it will rain."], "fr")
    assert french > 0.9 and english < 0.1
    with pytest.raises(ValueError, match=r"unknown language 'french'"):
        language_id.probability(["Bonjour"], "french")
