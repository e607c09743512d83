"""How an answer to a yes/no question is read: strictly, or as POPE's own script does.

"<think>No ...</think> \\boxed{Yes}"          the delimited answer decides: yes
"I would say no"                             a yes or no that ends its clause, or begins one: no
"There are no people, but there is a dog."   else what the clauses say of the object asked about: yes to the dog
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from amp_cli.benchmarks.answer_text import EDGES, plain_text, unwrapped
from amp_cli.benchmarks.mentions import Mention, Vocabulary, find_mentions, name_of
from amp_cli.benchmarks.vocabulary import coco_vocabulary


def read_official(text: str) -> bool:
    """Return True for yes, by the rule of POPE's evaluate.py.

    Only what stands before the first full stop counts, commas vanish, single blanks separate words; "No", "not" or "no"
    among them is a no, everything else (nothing at all, "NO", "Nope", "no" before a line break) a yes.
    """
    head, _, _ = text.partition(".")
    return {"No", "not", "no"}.isdisjoint(head.replace(",", "").split(" "))


def read_letters(text: str) -> bool | None:
    """Return True for yes, False for no, None for neither, by the letters alone, as RePOPE's and DASH-B's scripts do.

    "yes" anywhere in the answer is a yes, in "yesterday" too; else "no" anywhere is a no, in "unknown" too.
    """
    lower = text.lower()
    if "yes" in lower:
        return True
    return False if "no" in lower else None


_DROPPED = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOPS = 32
"""So many are taken out: where it was meant to give flags, VLMEvalKit gives a number of replacements."""


def read_words(text: str) -> bool | None:
    """Return True for yes, False for no, None for neither or both, as VLMEvalKit's exact matching does.

    Case aside, words are what stands between blanks without punctuation. A mark is dropped wherever one of it has a
    blank beside it, or digits stand around a comma; else it separates. Colons, quotes and line breaks' kin stay.
    """
    lower = text.lower()
    plain = lower
    for mark in _DROPPED:
        is_dropped = f"{mark} " in lower or f" {mark}" in lower or re.search(r"\d,\d", lower) is not None
        plain = plain.replace(mark, "" if is_dropped else " ")
    words = re.sub(r"\.(?!\d)", "", plain, count=_FULL_STOPS).split()
    return None if ("yes" in words) == ("no" in words) else "yes" in words


def read_strict(text: str, question: str = "") -> bool | None:
    """Return True for yes, False for no, None where the answer cannot be read as either.

    "Yes" and "no" are looked for in the same places, so that a wrapping that hides one hides the other. Without either,
    what is said of the object that `question` asks about decides. An answer that contradicts itself, hedges without a
    verdict, or ends inside its reasoning is unclear.
    """
    plain = plain_text(text)
    given = None if plain is None else unwrapped(plain.lower())
    if given is None:
        return None
    given = _NUMERO.sub("item ", _CHOICE.sub("\n", _DOUBLE_NEGATION.sub(" ", given)))
    whole = given.strip(EDGES)
    if whole in _WHOLE:
        return _WHOLE[whole]
    sentences = [one for one in _SENTENCE.findall(given) if not _is_question(one)]
    verdicts = {verdict for one in sentences for verdict in _verdicts(one)}
    verdicts = verdicts or {truth == "true" for truth in _DECLARED_TRUTH.findall(given)}
    if len(verdicts) == 2 or _BOTH.search(given):
        return None
    asked = asked_object(question)
    said = _said(sentences, asked)
    if verdicts:
        verdict = verdicts.pop()
        return None if (not verdict) in said else verdict
    if not said and asked is None:
        said = set(_of_predicate(sentences, question))
    if len(said) != 1 or _UNCERTAIN.search(given):
        return None
    return said.pop()


_WHOLE = {  # a verdict only where nothing else is said: "Correct, there is no dog" is none
    **dict.fromkeys(("y", "true", "correct", "right", "affirmative", "sure", "certainly", "indeed"), True),
    **dict.fromkeys(("absolutely", "definitely", "of course", "surely", "clearly", "obviously"), True),
    **dict.fromkeys(("n", "false", "incorrect", "wrong", "negative", "not", "no way"), False),
}
_DECLARED_TRUTH = re.compile(r"[:=]\s*[\"']?(true|false)\b")
_DOUBLE_NEGATION = re.compile(
    r"\b(?:(?:there(?: is|'s) )?no doubt(?: that)?|without (?:a |any )?(?:doubt|hesitation)|no question|undoubtedly"
    r"|not only|not just|not merely|(?:cannot|can't) be denied|no need to|no problem|no worries)\b"
)
_CHOICE = re.compile(r"[\"'(\[]*\b(?:yes\W{0,3}(?:/|\bor\b|\|)\W{0,3}no|no\W{0,3}(?:/|\bor\b|\|)\W{0,3}yes)\b[\"')\]]*")
_BOTH = re.compile(r"\b(?:yes and no|no and yes)\b")
_NUMERO = re.compile(r"\b(?:question|answer|item|image|option|example|case|number|sample|figure)s? no\.? ?(?=\d)")


_SENTENCE = re.compile(r"[^.;!?\n]+[.;!?\n]*")


def _is_question(sentence: str) -> bool:
    """Tell a question, which is the prompt's again, from a "Yes?"."""
    return sentence.rstrip(" \n\"')").endswith("?") and len(sentence.split()) > 3


_VERDICT = re.compile(r"(?<!\w)(?<!\w-)(yes|yeah|yep|yup|no|nope|nah)\b(?![-']\w)(?=[^\S\n]*([a-z]+(?:'[a-z]+)?)?)")
_NOES = ("no", "nope", "nah")
_CLAUSE_BEGINS = frozenset(
    re.findall(
        r"[\w']+",
        """
    there there's it it's i i'm i'd i can i've we you they that this these those the a an he she his her its their
    is was would are be seems as because since for from in on at to by with within based given due according and but so
    then thus though although however while therefore hence here now again too sir please thanks thank absolutely
    definitely certainly indeed really surely clearly obviously unfortunately actually sorry not don't isn't aren't
    cannot can't yes no yeah nope maybe
    """,
    )
)
_ADVERBS = frozenset({"absolutely", "definitely", "certainly", "indeed", "really", "surely", "clearly", "obviously"})
_CLAUSE_ENDS = re.compile(r"[,:]|\b(?:but|so|then|therefore|hence|thus|though|although|however|because)\b")
_CONDITION = re.compile(r"\b(?:if|unless|assuming|whether)\b(?! (?:i|you|we|my|forced|asked|pressed)\b)")
_CUT = re.compile(r"\b(?:there(?: is| are|'s)|has|have|contains?|shows?|see|and)\s*$")


def _verdicts(sentence: str) -> Iterator[bool]:
    """Yield each yes and no that is a verdict: not "no dog", "not yes", "if so, yes", nor "maybe no"."""
    if _CONDITION.search(sentence):
        return
    for match in _VERDICT.finditer(sentence):
        before = _VERDICT.sub(" ", _CLAUSE_ENDS.split(sentence[: match.start()])[-1])
        if _stands_alone(match) and not any(one.search(before) for one in (_NEGATIVE, _UNCERTAIN, _CUT)):
            yield match[1] not in _NOES


def _stands_alone(match: re.Match[str]) -> bool:
    """Return whether what follows a yes or no does not belong to it, as the "dog" of "no dog" does."""
    word, following, rest = match[1], match[2], match.string[match.end() :]
    if not following or word not in ("yes", "no"):
        return True
    if following in _ADVERBS:  # "no clearly visible dog"
        return re.match(rf"\s*{following} (?!(?:there|it|i|the)\b)[a-z]", rest) is None
    return following in _CLAUSE_BEGINS


_UNCERTAIN = re.compile(
    r"\b(?:cannot|can't|could not|couldn't|unable to|not able to|impossible to|hard to|difficult to|not possible to)"
    r" (?:be )?(?:tell|say|determined?|answer|know|confirm|verify|identify|judge)\b"
    r"|\b(?:cannot|can't|unable to) see (?:clearly|well|the (?:image|picture|photo)|any (?:image|picture)|images)\b"
    r"|\b(?:not sure|unsure|not certain|uncertain|unclear|not clear|don't know|do not know|no idea|no clue)\b"
    r"|\b(?:maybe|perhaps|possibly)\b"
    r"|\b(?:might|may|could) be\b"
)
_NEGATIVE = re.compile(r"\b(?:no|not|cannot|without|never|none|neither|nor|nothing|absent|missing|lacks?)\b|n't\b")
_IMAGE = r"(?:image|picture|photo|photograph|scene|it)"
_AFFIRMATIVE = re.compile(
    r"\bthere(?: is|'s| are| appears?| seems?)\b|\b(?:i|we|you) (?:can |do )?(?:clearly )?see\b|\bit (?:is|does)\b"
    r"|\b(?:is|are|can be) (?:\w+ )?(?:visible|present|shown|seen|found|depicted|there|in)\b|^\W*(?:yes|only|just)\b"
    rf"|\b{_IMAGE}(?: \w+)? (?:shows?|contains?|has|have|includes?|features?|depicts?)\b"
)
_SEE = r"(?:see|find|spot|notice|observe|show|contain|have|include|depict|feature)"
_NOT = r"(?:do not|does not|don't|doesn't|cannot|can't|did not|didn't|could not|couldn't)"
_IT = r"(?:it|one|any|them|(?:the|this|that|such an?) (?:\w+ )?(?:object|item))"
_VISIBLE = r"(?:there|here|present|visible|shown|seen|depicted|in (?:the|this))(?![\w'])"
_PLACE = r"(?=\W*$| (?:in|on|at|there|here|anywhere|clearly)\b)"
_SURELY = (
    r"(?:absolutely|definitely|certainly|surely|clearly|obviously|of course|probably|most likely|apparently"
    r"|i think|i guess|i believe|i'm afraid)"
)
_OF_IT = {
    False: re.compile(
        rf"\b{_NOT} (?:\w+ly )?{_SEE} {_IT}{_PLACE}|\b(?:see|there(?: is|'s| are)) none\b"
        rf"|\b{_IT}(?:'s| is| are) (?:not|nowhere) {_VISIBLE}|\b{_IT} (?:is|are)n't {_VISIBLE}"
        rf"|^\W*(?:is )?not {_VISIBLE}|\bno such (?:an? )?(?:object|thing|item|animal)\b"
    ),
    True: re.compile(
        rf"\b(?:i|we|you) (?:can |do |could )?(?:\w+ly )?{_SEE} (?:it|one|some|them){_PLACE}"
        rf"|\b{_IMAGE} (?:does )?{_SEE}s? (?:one|some){_PLACE}|\b(?:it|one)(?:'s| is) (?:\w+ly )?{_VISIBLE}"
    ),
}
_IN_SHORT = {  # counts only where neither yes nor no stands anywhere: "it is" may be a part of "it is no"
    False: re.compile(
        r"\b(?:there|it|they) (?:(?:is|are|does|do) not|isn't|aren't|doesn't|don't)(?: (?:one|any))?\W*$"
        r"|\b(?:don't|do not|doesn't|does not) (?:(?:think|believe|seem|appear|look) so|(?:look|seem) like it)\b"
        rf"|^\W*(?:not at all|by no means|(?:\w+ )?{_SURELY} not)\W*$"
    ),
    True: re.compile(
        r"\b(?:there|it|they) (?:is|are|does|do)(?: (?:one|some))?\W*$"
        r"|^\W*(?:i|it) (?:(?:think|believe|seems|appears) so|(?:looks|seems) like it)\W*$"
    ),
}
_THING = re.compile(r"\b(?:it|that|they|them)\b")


def _said(sentences: list[str], asked: str | None) -> set[bool]:
    """Return what the sentences say about the object, by its name or as "it", apart from a yes or no."""
    in_short = _IN_SHORT if not any(map(_VERDICT.search, sentences)) else {}
    said: set[bool] = set()
    before = ""
    for text in (_VERDICT.sub(_without_verdict, one).strip(" ,:-\"'\n") for one in sentences):
        if _CONDITION.search(text) or _UNCERTAIN.search(text):
            before += text
            continue
        named = set(_of_object(text, asked)) if asked else set()
        for clause in () if named else _HARD_CLAUSE.split(text):
            # "it" is the object asked about only while nothing else was spoken of
            if not (_THING.search(clause) and re.search(r"[a-z]", before.replace("verdict", ""))):
                named |= {is_there for is_there, how in _OF_IT.items() if how.search(clause)}
                named |= {is_there for is_there, how in in_short.items() if how.search(clause)}
            before += clause
        said |= named
        before += "" if named else text
    return said


def _without_verdict(match: re.Match[str]) -> str:
    return " verdict, " if _stands_alone(match) else match[0]


_HARD_CLAUSE = re.compile(
    r"[,:]?\s*\b(?:but(?! also)|while|whereas|although|though|however|yet|so(?= +\w)|therefore|because)\b"
    r"|,\s*(?:and )?(?=(?:there|i|it|we|only|just|the (?:image|picture|photo|scene))\b)"
    r"|\band (?=(?:there|i|it|we|the (?:image|picture|photo|scene))\b)"
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|does|do|can|could|will|would|seems?|appears?|shows?)\b|'s\b|n't\b"
)
_SUPPOSED = re.compile(
    r"\b(?:would|should|were there|as opposed to|except|apart from|other than|excluding|looks? like)\b"
)
_ACTION = re.compile(r"\b(?!(?:any|some|no|every)?thing\b|seeing\b|build|morning|evening|during)\w{3,}ing\b")


def _of_object(sentence: str, asked: str) -> Iterator[bool]:
    """Yield what a sentence says of the object at each mention: that it is there (True), or not."""
    vocabulary = _vocabulary_of(asked)
    wanted = vocabulary.names[name_of(asked)]
    borders = [0, *(match.end() for match in _HARD_CLAUSE.finditer(sentence)), len(sentence)]
    for mention in find_mentions(sentence, vocabulary):
        written = sentence[mention.start : mention.end]
        if mention.name != wanted or written.endswith("'s"):
            continue
        begin = max(border for border in borders if border <= mention.start)
        end = min(border for border in borders if border >= mention.end)
        verdict = _of_mention(sentence, mention, begin, end)
        if verdict or (verdict is False and _is_general(written, asked)):
            yield verdict


def _of_mention(sentence: str, mention: Mention, begin: int, end: int) -> bool | None:
    """Return what the clause `sentence[begin:end]` says of a mention in it; None where it asserts nothing."""
    clause, before = sentence[begin:end], sentence[begin : mention.start]
    after = sentence[mention.end : end].split(",")[0]
    negations = list(_NEGATIVE.finditer(before))
    if _SUPPOSED.search(before):
        return None
    if mention.denied:
        if negations and _ACTION.search(before[negations[-1].end() :]):  # "is not holding a dog"
            return None
        is_list = re.search(r"\b(?:neither|nor|or|and)\b|,", before)
        return None if len(negations) > 1 and not is_list else False
    if negations or re.search(r"\b(?:not|cannot|never)\b|n't\b", after):
        return None
    is_part = not _VERB.search(clause)  # "no cat but a dog": the verb stands earlier
    return True if _AFFIRMATIVE.search(clause) or (is_part and _AFFIRMATIVE.search(sentence[:end])) else None


def _is_general(written: str, asked: str) -> bool:
    """Return whether denying this name denies the object: "no table" is no dining table, "no man" is no "no person"."""
    words, name = name_of(written), name_of(asked)
    return name[-len(words) :] == words


_COUNTED = re.compile(r"^(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|more|less|only|direct)\b")
_RELATED = re.compile(r"\b(?:between|and|or|with|on|in|of|near|behind|that|which)\b")
_WHERE = r"(?:(?: (?:visible|present|shown|depicted|anywhere))?(?: (?:in|on|within|inside) (?:the|this|that) \w+)?)"
_ARTICLE = r"(?:(?:a|an|any|the|some) )?"
_EXISTENCE = re.compile(
    rf"^(?:(?:is|are) there|(?:do|can) you see|does (?:the|this) (?:\w+) (?:contain|show|have|include|depict)) "
    rf"{_ARTICLE}(?P<there>[a-z' -]+?){_WHERE}$"
)


@lru_cache(maxsize=4096)
def asked_object(question: str) -> str | None:
    """Return the object whose existence a question asks for, in lower case; None where it asks something else."""
    line = next((one for one in question.replace("<image>", "").splitlines() if one.strip()), "")
    match = _EXISTENCE.match(" ".join(line.lower().split()).rstrip(" ?.!"))
    if match is None:
        return None
    name = match["there"].strip()
    return None if _COUNTED.search(name) or _RELATED.search(name) or not name_of(name) else name


@lru_cache(maxsize=1024)
def _vocabulary_of(asked: str) -> Vocabulary:
    """Return COCO's objects, and the one asked about where it is none of them."""
    coco = coco_vocabulary()
    if coco.names.get(name_of(asked)):
        return coco
    return Vocabulary({**coco.words, asked: (asked,)}, coco.not_objects)


_FORM_WORDS = re.compile(
    r"(?:is|are|do|does|did|was|were|there|the|an?|any|in|on|of|to|this|that|it|image|picture|photo|scene)$"
)


def _of_predicate(sentences: list[str], question: str) -> Iterator[bool]:
    """Yield what is said of a question that does not ask for an object, by the clauses that repeat what it asks."""
    asked = question.lower().split("\n")[0].split(" between ")[0]
    words = [word for word in re.findall(r"[a-z0-9]+", asked) if not _FORM_WORDS.match(word)]
    needed = words if _COUNTED.search(" ".join(words)) else words[-1:]
    sentences = [
        one for one in sentences if not _CONDITION.search(one) and not any(map(_stands_alone, _VERDICT.finditer(one)))
    ]
    clauses = [part for one in sentences for clause in _HARD_CLAUSE.split(one) for part in clause.split(",")]
    for clause in clauses if words else sentences:
        if not all(re.search(rf"\b{re.escape(word[: max(4, len(word) - 1)])}", clause) for word in needed):
            continue
        if _NEGATIVE.search(clause):
            yield False
        elif _AFFIRMATIVE.search(clause) or re.search(r"\byes\b", clause) or (needed and _VERB.search(clause)):
            yield True
