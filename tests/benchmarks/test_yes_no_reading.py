"""How an answer to a yes/no question is read: yes and no alike in every wrapping, clauses by the object asked about."""

import itertools

import pytest

from amp_cli.benchmarks.yes_no_reading import asked_object, read_official, read_strict

DOG, CAT = "Is there a dog in the image?", "Is there a cat in the image?"
PERSON, TABLE = "Is there a person in the image?", "Is there a dining table in the image?"
BLACK, WHITE = "Is the dog black in this image?", "Is the dog white in this image?"

WRAPPERS = r"""
@ | @. | @!! | @... | "@" | '@' | (@) | [@] | {@} | <@> | **@** | __@__ | `@` | - @ | > @ | # @ | 1. @
(A) @ | A. @ | A) @ | Option A: @ | \boxed{@} | \boxed{\text{@}} | $\boxed{\mathrm{@}}$ | \text{@}
The final answer is \( \boxed{@} \). | <|begin_of_box|>@<|end_of_box|> | <answer>@</answer> | <answer> @
<think>Is it a dog? No, a cat. Yes it is.</think>@ | <think>no, there is no dog</think> Final answer: @
no, yes</think> @ | <thinking>yes</thinking> @. | <reasoning>no</reasoning><answer>@</answer> | [THINK]no[/THINK]@
<|channel|>analysis<|message|>yes, no<|end|><|channel|>final<|message|>@ | @<|im_end|> | <s> @ </s> | <p>@</p>
<SUMMARY>I look.</SUMMARY><CONCLUSION>@</CONCLUSION> | &quot;@&quot; | {"answer": "@"} | {'answer': '@'}
{"reasoning": "There is a cat.", "answer": "@", "confidence": 0.9} | answer=@; confidence=0.7 | "answer": "@",
Answer: @ | ANSWER=@ | Answer - @ | Final answer = @ | final_answer: @ | The answer is "@". | ASSISTANT: @
Therefore, the answer is @. | So @. | I would say @ | I'd go with @. | It is @. | It's a @ from me. | @ it is
A resounding @! | My answer is @ because the image is blurry. | Please answer yes or no. @ | (yes/no) @ | Sure! @
Question: Is there a dog in the image? Answer: @ | Is there a dog in the image? @ | Without a doubt, @ | @ sir
There's nothing to add: @ | It's a no-brainer: @ | Answer No. 3: @ | I am not sure, but I would say @. | @ indeed
If I had to choose, I'd say @. | I can see that the answer is @. | The image does not show much. @ | @ 100%
There are no people in the image. So the answer is @. | @ (confidence: 0.9) | @ is my answer. | In conclusion, it's @.
@ as far as I can tell | @ - see above | @. The image shows a cat on a chair. | @, and there is no cat. | ✅ @ | 「@」
"""
UNCLEAR = r"""
<think>@ | <think>There is a dog. @ | <think>@</think> | [THINK]@ | <|channel|>analysis<|message|>@ | Maybe @
I can't say @ | not @ | It could be @. | I wouldn't say "@". | @ if you count toys | unless it is a wolf, @ | @ or maybe
The answer isn't @ | @ people | There is @ | the @ answer | \boxed{yes} \boxed{no} @ | yes and no, @ | Neither @
"""


def listed(wrappers: str) -> list[str]:
    return [one.strip() for line in wrappers.strip().splitlines() for one in line.replace("<|", "<¦").replace(
        "|>", "¦>").split("|")]  # fmt: skip


def wrapped(wrapper: str, word: str) -> str:
    return wrapper.replace("¦", "|").replace("@", word)


@pytest.mark.parametrize("question", [DOG, BLACK, ""])
@pytest.mark.parametrize("wrapper", listed(WRAPPERS))
def test_a_wrapping_hides_neither_yes_nor_no(wrapper: str, question: str) -> None:
    for yes, no in (("Yes", "No"), ("yes", "no"), ("YES", "NO"), ("Yeah", "Nope")):
        assert read_strict(wrapped(wrapper, yes), question) is True
        assert read_strict(wrapped(wrapper, no), question) is False


@pytest.mark.parametrize("wrapper", listed(UNCLEAR))
def test_a_wrapping_that_takes_a_yes_back_takes_a_no_back(wrapper: str) -> None:
    assert read_strict(wrapped(wrapper, "yes"), CAT) is None
    assert read_strict(wrapped(wrapper, "no"), CAT) is None


def test_wrappings_within_one_another_mirror_each_other_too() -> None:
    """Every pair of wrappings, one in the other, about 10,000; all but those that make one word of two sentences."""
    both = [one for one in [*listed(WRAPPERS), *listed(UNCLEAR)] if one != "<think>@</think>"]
    mirror = {True: False, False: True, None: None}
    for outer, inner in itertools.product(both, both):
        if outer in ("It is @.", "not @") and inner.startswith("There "):
            continue
        wrapper = wrapped(outer, inner)
        assert read_strict(wrapped(wrapper, "Yes"), DOG) is mirror[read_strict(wrapped(wrapper, "No"), DOG)], wrapper


@pytest.mark.parametrize(
    ("text", "question", "reading"),
    [
        ("There are no people, but there is a dog.", DOG, True),
        ("There are no people, but there is a dog.", PERSON, False),
        ("There is a dog, not a cat.", DOG, True), ("There is a dog, not a cat.", CAT, False),
        ("There is no cat. There is a dog.", DOG, True), ("There is no cat. There is a dog.", CAT, False),
        ("There is no cat and there is a dog.", DOG, True), ("There is no cat, there is a dog.", DOG, True),
        ("There is no cat but a dog.", DOG, True), ("There are no cats, only a dog.", DOG, True),
        ("No people are visible, but there is a dog.", DOG, True),
        ("While there is no cat, there is a dog.", DOG, True),
        ("Not only a dog, but also a cat is visible.", DOG, True), ("There is not just a dog but a cat.", DOG, True),
        ("There is no doubt that there is a dog.", DOG, True), ("I see a dog without a leash.", DOG, True),
        ("The image shows a cat, a bird and a dog.", DOG, True), ("A dog can be seen.", DOG, True),
        ("No, there is a dog, not a cat.", CAT, False), ("There is one.", DOG, True), ("It is.", DOG, True),
        ("There is a man without a dog.", DOG, False), ("I don't see any dog.", DOG, False), ("No dogs.", DOG, False),
        ("I don't think there is a dog.", DOG, False), ("Neither a dog nor a cat is visible.", DOG, False),
        ("No cars, trucks or dogs are visible.", DOG, False), ("The image lacks a dog.", DOG, False),
        ("The image shows a cat instead of a dog.", DOG, False), ("A cat rather than a dog is visible.", DOG, False),
        ("A dog does not appear in the image.", DOG, False), ("It isn't.", DOG, False), ("Not at all.", DOG, False),
        ("No dog, just a cat.", CAT, True), ("I can't see a dog, only a cat.", CAT, True),
        ("There is no such object in the image.", DOG, False), ("Not in this image.", DOG, False),
        ("There is a man.", PERSON, True), ("There is no man.", PERSON, None), ("There are no people.", PERSON, False),
        ("There is a table.", TABLE, True), ("There is no table.", TABLE, False),
        ("There is a cat.", DOG, None), ("There is no cat.", DOG, None), ("There is a hot dog.", DOG, None),
        ("There is no one with a dog.", DOG, None), ("No one is walking the dog.", DOG, None),
        ("It is not true that there is no dog.", DOG, None), ("I don't think there is no dog.", DOG, None),
        ("The man is not holding a dog.", DOG, None), ("The dog is not on the couch.", DOG, None),
        ("There is everything except a dog.", DOG, None), ("If there were a dog, it would be visible.", DOG, None),
        ("There is a lamp. It is visible.", DOG, None), ("There is a dog's bowl.", DOG, None),
        ("No, there is a dog.", DOG, None), ("Yes, there is no dog.", DOG, None), ("Is there a dog?", DOG, None),
        ("The dog is white, not black.", BLACK, False), ("The dog is white, not black.", WHITE, True),
        ("The dog is white.", BLACK, None), ("It is not.", BLACK, False), ("No, the dog is white.", BLACK, False),
        ("The dog is running.", "Does the dog run in this image?", True),
        ("There are two dogs.", "Are there two dogs in this image?", True),
        ("There are three dogs.", "Are there two dogs in this image?", None),
        ("There is no direct contact.", "Is there direct contact between the dog and the sofa?", False),
    ],
)  # fmt: skip
def test_clauses_are_judged_by_what_is_asked(text: str, question: str, reading: bool | None) -> None:
    assert read_strict(text, question) is reading


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (DOG, "dog"), (TABLE, "dining table"), ("Is there an apple?", "apple"), ("Are there any dogs?", "dogs"),
        ("<image>\nIs there a dog in the imange?\nAnswer yes or no.", "dog"), ("Can you see a dog?", "dog"),
        (BLACK, None), ("Are there two dogs in this image?", None), ("What is it?", None), ("", None),
        ("Is there direct contact between the dog and the sofa?", None),
    ],
)  # fmt: skip
def test_the_object_asked_about(question: str, name: str | None) -> None:
    assert asked_object(question) == name


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("No.", False), ("NO", True), ("No!", True), ("no\nThe image", True), ("Yes,no", True), ("", True),
        ("Yes, and there is no cat", False), ("There isn't a dog.", True), ("Absolutely not", False), ("1. No", True),
    ],
)  # fmt: skip
def test_the_official_reading_is_as_odd_as_the_script(text: str, reading: bool) -> None:
    assert read_official(text) is reading


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", True), ("yes.", True), ("**Yes**", True), ("Yes, and there is no cat.", True), ("Answer: yes", True),
        ("Yes. There is no doubt about it", True), ("No doubt, there is a dog.", True), ("I can see a dog.", True),
        ("There is a dog.", True), ("Of course.", True), ("There are no bottles; yes, a dog is there", True),
        ("Based on the image, the answer is yes.", True), ("Not sure. Yes", True), ("True", True),
        ("NO", False), ("No!", False), ("no\nThe image shows a cat.", False), ("Nope", False), ("No; none", False),
        ("There isn't a dog.", False), ("There isn’t a dog.", False), ("I do not see a dog.", False), ("not", False),
        ("I cannot see a dog.", False), ("Absolutely not", False), ("1. No", False), ('"No"', False), ("False", False),
        ("No, there is a cat instead.", False), ("I don't think so.", False), ("The dog is absent.", False),
        ("", None), (" \n", None), ("I cannot tell", None), ("It is unclear whether there is a dog.", None),
        ("I can't determine that.", None), ("Yes/no", None), ("Yes\nno", None), ("yes or no", None), ("Maybe.", None),
        ("No idea", None), ("a snowboard", None), ("The image does not show it. Yes", None),
        ("There might be a dog", None),
        ("Yes. So the answer is no.", None),
    ],
)  # fmt: skip
def test_the_strict_reading(text: str, reading: bool | None) -> None:
    assert read_strict(text, DOG) is reading
