from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dpft.data.demo_words import HELD_OUT, SUBJECTS, VERDICTS
from dpft.data.tasks.demo import REVISION, TASK, generate

# sha256 of json.dumps(generate(), ensure_ascii=True) with tuples as lists. When it changes, so must REVISION.
PINNED = {"1": "ebb4885d77663d334ee66da501584452564657b5bd4fc9313657656e9bd7fce4"}


def test_every_machine_makes_the_same_rows() -> None:
    made = generate()
    digest = hashlib.sha256(json.dumps(dict(made)).encode()).hexdigest()
    assert digest == PINNED[REVISION]
    assert made == generate()


def test_sizes_and_balance() -> None:
    made = generate()
    assert {name: len(labels) for name, (_, labels) in made.items()} == {"train": 4000, "validation": 600}
    for (texts,), labels in made.values():
        assert len(texts) == len(labels)
        share = sum(labels) / len(labels)
        assert 0.45 < share < 0.58
        assert share != 0.5


def test_no_text_comes_twice() -> None:
    texts = [text for (texts,), _ in generate().values() for text in texts]
    assert [text for text, times in Counter(texts).items() if times > 1] == []


def test_validation_has_words_that_train_has_not() -> None:
    words = {
        name: {w for t in texts for w in t.lower().split()} for name, ((texts,), _) in generate().items()
    }
    assert len(words["validation"] - words["train"]) > 50
    assert not any(HELD_OUT in text for (texts,), _ in generate().values() for text in texts)


def test_no_word_is_both_praise_and_blame() -> None:
    praise = {word for subject in SUBJECTS for word in subject.praise} | set(VERDICTS[1])
    blame = {word for subject in SUBJECTS for word in subject.blame} | set(VERDICTS[0])
    assert praise & blame == {HELD_OUT}


@pytest.mark.slow
def test_counting_words_is_not_enough() -> None:
    made = generate()
    (train, labels), (validation, truth) = ((texts, labels) for (texts,), labels in made.values())
    counts = CountVectorizer(ngram_range=(1, 2))
    model = LogisticRegression(max_iter=2000).fit(counts.fit_transform(train), labels)
    assert 0.7 < model.score(counts.transform(validation), truth) < 0.9


def test_it_says_that_it_is_synthetic() -> None:
    assert "synthetic" in TASK.description
