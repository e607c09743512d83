"""Which texts can be in a language."""

import pytest

from amp_cli.dialogues.language import can_be

ENGLISH = [
    "A man in a red hat sits on a bus.",
    "Two dogs.",
    "red bus, dog, cat",
    "No",
    "kitchen with oven, fridge, sink",
    "The café serves crème brûlée on a table.",
    "The sign says LA LA LAND.",
    'There is a red sign with "中文" on the wall of the shop.',
    "In a van, on a road",
    "x = 3",
    "",
]
OTHERS = {
    "zh": "一只狗在草地上跑，旁边有两个人。",
    "ja": "犬が走っている。",
    "ko": "개가 잔디 위에 있다.",
    "ru": "Собака бежит по траве.",
    "ar": "كلب يجري على العشب",
    "hi": "घास पर एक कुत्ता है",
    "th": "สุนัขวิ่งบนสนามหญ้า",
    "fr": "Le chien est dans la rue.",
    "de": "Die Katze sitzt auf dem Tisch.",
    "es": "Un perro marrón está en la calle.",
    "it": "Un cane corre sul prato con una palla.",
    "pt": "O cachorro está no parque com uma bola.",
    "nl": "Een hond staat op het gras.",
    "sv": "En hund står på gräset och det är sol.",
    "pl": "Pies stoi na trawie i patrzy w okno.",
    "tr": "Bir köpek çimlerin üzerinde.",
    "vi": "Một con chó trên bãi cỏ.",
    "id": "Seekor anjing di atas rumput dan sebuah bola.",
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_texts_can_be_english(text: str) -> None:
    assert can_be(text, "en")


@pytest.mark.parametrize("language", OTHERS)
def test_a_text_can_be_in_its_own_language_and_not_in_english(language: str) -> None:
    assert can_be(OTHERS[language], language)
    assert not can_be(OTHERS[language], "en")
    assert can_be(OTHERS[language], "xx")


def test_english_cannot_be_in_another_script_or_language() -> None:
    for language in OTHERS:
        assert not can_be(ENGLISH[0], language)


def test_the_answers_of_all_rounds_are_judged_together() -> None:
    assert not can_be(["Ja.", "Die Katze sitzt auf dem Tisch."], "en")
    assert can_be(["No.", "The cat sits on the table."], "en")


def test_a_few_foreign_letters_do_not_change_the_language() -> None:
    assert can_be("a" * 81 + "猫" * 19, "en")
    assert not can_be("a" * 79 + "猫" * 21, "en")
