import pytest

from marker_lm.annotate.answers import chosen, options, reasons_to_answer

LINES = "Which is a fruit?\nA) Apple\nB) Stone\nC) River bank"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (LINES, {"A": "Apple", "B": "Stone", "C": "River bank"}),
        ("Which?\n - a. Apple\n - b. Stone", {"A": "Apple", "B": "Stone"}),
        ("Which? (A) Apple, (B) Stone; (C) River", {"A": "Apple", "B": "Stone", "C": "River"}),
        ("Which?\n1. Apple\n2. Stone", {"1": "Apple", "2": "Stone"}),
        ("Which?\nOptions: Apple; Stone", {"#1": "Apple", "#2": "Stone"}),
        ("Which?\nChoices:\n- Apple\n- Stone", {"#1": "Apple", "#2": "Stone"}),
        # An example first, then the question.
        (f"{LINES}\nAnswer: A\n\nAnd here?\nA) Tea\nB) Wall", {"A": "Tea", "B": "Wall"}),
        ("B) Stone\nC) River", {}),
        ("A) Apple\nC) River", {}),
        ("See (a) and (c).", {}),
        ("A: How are you?", {}),
        ("We have many options: say one.", {}),
    ],
)
def test_options(prompt, expected):
    assert options(prompt) == expected


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("A", "A"), ("(c)", "C"), ("B.", "B"), ("c) river bank", "C"), ("**B**", "B"),
        ("The correct answer is B", "B"), ("Answer: (A) Apple", "A"), ("river  bank.", "C"),
        ("D", None), ("B) Apple", None), ("A stone", None), ("Apple and stone", None), ("", None),
    ],
)  # fmt: skip
def test_chosen(answer, label):
    assert chosen(options(LINES), answer) == label


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("3 + 4 = 7\nSo it is 7.\n#### 7", 1.0),
        ("<think>Let me see.</think>\nSeven.", 1.0),
        ("Step 1: take 3.\nStep 2: add 4.\nThe answer is 7.", 0.9),
        ("First, 3. Then we add 4. Therefore, the final answer is: 7", 0.9),
        ("We know $x = 3$. So $x + 4 = 7$. \\boxed{7}", 0.9),
        ("The answer is 7.", 0.0),
        ("3 + 4 = 7\n4 + 3 = 7", 0.0),
        ("It rains. It is cold. The answer is 7.", 0.0),
        ("#### 7", 0.0),
        ("#### One\n#### Two", 0.0),
        ("<think>Let me see.</think>", 0.0),
        ("", 0.0),
    ],
)
def test_steps_that_end_in_an_answer(text, least):
    assert reasons_to_answer(text) == least
