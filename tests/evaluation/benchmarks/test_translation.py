"""Translation scores are sacrebleu's of the corpus of each language."""

import sys
from types import SimpleNamespace

import pytest

from marker_lm.evaluation.benchmarks.translation import tokenizer
from tests.evaluation.benchmarks.made import scored, table

pytestmark = pytest.mark.extra
sacrebleu = pytest.importorskip("sacrebleu")
ROWS = [
    {"prompt": "a", "language": "de", "refs": ["der kleine Hund schläft im Haus", "er schläft"]},
    {"prompt": "b", "language": "de", "completion": "die Katze sitzt auf dem Dach"},
    {"prompt": "c", "language": "zh", "reference": "我今天去北京看朋友"},
]  # fmt: skip
TEXTS = ["der Hund schläft im Haus", "die Katze sitzt auf dem Dach", "我今天去上海看朋友"]


def test_a_corpus_by_hand(tmp_path):
    # Against "a b c d e" the text "a b c d f" has 4/5, 3/4, 2/3 and 1/2 of its n-grams.
    rows = [{"prompt": "p", "language": "de", "reference": "a b c d e"}]
    found = table(scored(tmp_path, "translation", rows, ["a b c d f"]))
    assert found["de"]["BLEU"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    same = table(scored(tmp_path, "translation", rows, ["a b c d e"]))
    assert same["all"]["BLEU"] == pytest.approx(100) and same["all"]["chrF"] == pytest.approx(100)


def test_figures_are_those_of_sacrebleu(tmp_path):
    result = scored(tmp_path, "translation", ROWS, TEXTS)
    found = table(result)
    references = [[ROWS[0]["refs"][0], ROWS[1]["completion"]], [ROWS[0]["refs"][1], None]]
    bleu = sacrebleu.corpus_bleu(TEXTS[:2], references).score
    chrf = sacrebleu.corpus_chrf(TEXTS[:2], references).score
    assert found["de"]["BLEU"] == bleu and found["de"]["chrF"] == chrf
    chinese = sacrebleu.corpus_bleu(TEXTS[2:], [[ROWS[2]["reference"]]], tokenize="zh").score
    assert found["zh"]["BLEU"] == chinese > 0
    assert found["all"]["BLEU"] == pytest.approx((bleu + chinese) / 2)
    sentences = [
        sacrebleu.sentence_chrf(TEXTS[0], ROWS[0]["refs"]).score,
        100.0,
        sacrebleu.sentence_chrf(TEXTS[2], [ROWS[2]["reference"]]).score,
    ]
    assert found["all"]["chrF_sentence"] == pytest.approx(sum(sentences) / 3)


def test_tokenizers_by_code_or_name():
    assert [tokenizer(x) for x in ("zh-CN", "Chinese", "ja", "th_TH", "de", "German")] == [
        "zh", "zh", "char", "char", "13a", "13a",
    ]  # fmt: skip


def test_comet_is_the_mean_over_references(tmp_path, monkeypatch):
    seen = []

    def predict(data, batch_size, gpus):
        seen.extend(data)
        return SimpleNamespace(scores=[i / 10 for i in range(len(data))])

    fake = SimpleNamespace(
        download_model=lambda name: f"/models/{name}.ckpt",
        load_from_checkpoint=lambda path: SimpleNamespace(predict=predict),
    )
    monkeypatch.setitem(sys.modules, "comet", fake)
    rows = [row | {"input": "source " + row["prompt"]} for row in ROWS]
    result = scored(tmp_path, "translation", rows, TEXTS, comet="XCOMET-XL")
    assert [row.scores["COMET"] for row in result.rows] == pytest.approx([0.05, 0.2, 0.3])
    assert seen[1] == {"src": "source a", "mt": TEXTS[0], "ref": ROWS[0]["refs"][1]}
    assert table(result)["de"]["COMET"] == pytest.approx(0.125)


def test_comet_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    rows = [row | {"input": "s"} for row in ROWS]
    with pytest.raises(ValueError, match="pip install unbabel-comet"):
        scored(tmp_path, "translation", rows, TEXTS, comet="XCOMET-XL")
    with pytest.raises(ValueError, match="which COMET needs"):
        scored(tmp_path, "translation", ROWS, TEXTS, comet="XCOMET-XL")
