"""LLaVA-Bench, on COCO and in the wild: a judge scores a reference answer and the model's answer from 1 to 10."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.asking.templates import (
    JudgeTemplate,
    Messages,
    choose_judge_template,
    llava_bench_prompt,
    llava_bench_rule_prompt,
    read_rules,
)
from amp_cli.benchmarks.answer_files import by_number_or_image, read_answers
from amp_cli.benchmarks.benchmark import Judged, LoadedBenchmark
from amp_cli.benchmarks.comparing import METHOD, ratio
from amp_cli.benchmarks.files import (
    COCO_PREFIX,
    check_verdicts,
    own_verdicts,
    records_of,
    spoken,
    text_field,
)
from amp_cli.benchmarks.judged import (
    JudgedScore,
    Measured,
    Rated,
    contributions,
    data_options,
    judged_benchmark,
    measure,
    unscored,
)
from amp_cli.benchmarks.ratings import Reading, read_pair_official, read_pair_strict
from amp_cli.benchmarks.showing import Column, Table, block_rows, column, title_of
from amp_cli.disk.jsonl import content_hash
from amp_cli.downloads.places import benchmark_folder
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings


CATEGORIES = ("conv", "detail", "complex")
QUESTIONS = ("qa90_questions.jsonl", "questions.jsonl")
REFERENCES = ("qa90_gpt4_answer.jsonl", "answers_gpt4.jsonl")
CONTEXT = ("caps_boxes_coco2014_val_80.jsonl", "context.jsonl")


@dataclass(frozen=True, kw_only=True)
class LlavaBenchFiles:
    """What is asked, what is known of the images, and the answers that a model's are compared with."""

    questions: Path
    references: Path
    context: Path


def find_files(data: Path, benchmark: str) -> LlavaBenchFiles:
    """Find the three files anywhere below `data`, under the names of COCO's or of the in-the-wild version."""
    hint = f"Give --data the folder with {QUESTIONS[0]} or {QUESTIONS[1]}, or run `amp download {benchmark}` first"
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint=hint)
    wild = benchmark == "llava-bench-wild"
    found = [_find(data, names[::-1] if wild else names, hint) for names in (QUESTIONS, REFERENCES, CONTEXT)]
    return LlavaBenchFiles(questions=found[0], references=found[1], context=found[2])


def _find(data: Path, names: Sequence[str], hint: str) -> Path:
    for name in names:
        found = sorted(data.rglob(name))
        if found:
            return found[0]
    raise AmpError(f"Neither {' nor '.join(names)} below '{data}'", hint=hint)


def read_items(files: LlavaBenchFiles) -> tuple[BenchmarkItem, ...]:
    """Join questions to reference answers by `question_id` and to descriptions by image."""
    references = _by_question(records_of(files.references), files.references)
    contexts = {
        _bare(text_field(record, "image", f"'{files.context}': a record")): _context(record, files.context)
        for record in records_of(files.context)
    }
    items = []
    for number, record in enumerate(records_of(files.questions), start=1):
        where = f"'{files.questions}', record {number},"
        item_id = _question_id(record, where)
        category = text_field(record, "category", where).removeprefix("llava_bench_")
        image = text_field(record, "image", where)
        if category not in CATEGORIES:
            raise AmpError(f"{where} has the category '{category}'", hint=f"Known: {', '.join(CATEGORIES)}")
        if item_id not in references:
            raise AmpError(
                f"'{files.references}' has no answer to question_id {item_id}",
                hint="Questions and reference answers must be of the same version",
            )
        if _bare(image) not in contexts:
            raise AmpError(
                f"'{files.context}' does not describe '{image}'",
                hint="Questions and context must be of the same version",
            )
        items.append(
            BenchmarkItem(
                id=item_id,
                images=(image,),
                questions=(spoken(text_field(record, "text", where)),),
                reference={
                    "category": category,
                    "context": contexts[_bare(image)],
                    "answers": [references[item_id]],
                },
            )
        )
    _refuse_repeated(items, files.questions)
    return tuple(items)


def _bare(image: str) -> str:
    return Path(image).name.removeprefix(COCO_PREFIX)


def _question_id(record: Mapping[str, Any], where: str) -> str:
    if "question_id" not in record:
        raise AmpError(f"{where} has no question_id", hint="Correct or remove that record, then run again")
    return str(record["question_id"])


def _by_question(records: Sequence[Mapping[str, Any]], path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        item_id, text = _question_id(record, where), text_field(record, "text", where)
        if texts.setdefault(item_id, text) != text:
            raise AmpError(
                f"'{path}' answers question_id {item_id} twice and differently", hint="Keep one of the two lines"
            )
    return texts


def _context(record: Mapping[str, Any], path: Path) -> str:
    """Return an image's description: captions line by line, then boxes; in the wild one caption."""
    captions = record.get("captions", record.get("caption"))
    lines = [captions] if isinstance(captions, str) else captions
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise AmpError(
            f"'{path}' has no caption of '{record.get('image')}'",
            hint="Fetch the files again: `amp download llava-bench`",
        )
    text = "\n".join(lines)
    boxes = record.get("instances")
    if not boxes:
        return text
    try:
        return f"{text}\n\n" + "\n".join(f"{box['category']}: {box['bbox']}" for box in boxes)
    except (KeyError, TypeError) as error:
        raise AmpError(
            f"'{path}': a box of '{record.get('image')}' lacks category or bbox",
            hint="Correct or remove that record, then run again",
        ) from error


def _refuse_repeated(items: Sequence[BenchmarkItem], path: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise AmpError(f"'{path}' has the question_id {item.id} twice", hint="Keep one of the two lines")
        seen.add(item.id)


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read reviews by `question_id`; the scores are read from `content` again, `tuple` serves where that is absent."""
    records = records_of(path)
    if not all("question_id" in record for record in records):
        return own_verdicts(path, items)
    verdicts = []
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        if "content" not in record and isinstance(record.get("tuple"), list):
            text = " ".join(map(str, record["tuple"]))
        else:
            text = text_field(record, "content", where)
        verdicts.append(Verdict(id=_question_id(record, where), text=text))
    check_verdicts(verdicts, items, path)
    return verdicts


COUNTS = {"llava-bench": 90, "llava-bench-wild": 60}
SCORES = ("relative", "reference", "model")


@dataclass(frozen=True, kw_only=True)
class JudgeRules:
    """The wording of `rule.json`: what the judge is told, by category."""

    rules: Mapping[str, str]
    identity: Mapping[str, str]


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read questions, reference answers and image descriptions, under their names of either version."""
    files = find_files(data, settings.benchmark)
    items = read_items(files)
    expected = COUNTS[settings.benchmark]
    return LoadedBenchmark(
        items=items,
        files=(files.questions, files.references, files.context),
        facts={"questions": len(items), "images": len({item.images for item in items})},
        warnings=()
        if len(items) == expected
        else (f"'{files.questions}' holds {len(items)} questions, {settings.benchmark} has {expected}",),
    )


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or records with `question_id` and `text`."""
    return read_answers(path, lambda given: by_number_or_image(given, items, path))


def wording(data: Path, file: Path | None) -> JudgeTemplate | JudgeRules:
    """Return the judge's instructions: `file`, else an official `rule.json` that is at hand, else ours."""
    if file is None:
        places = (data, benchmark_folder("llava-bench"))  # the in-the-wild questions come without rules
        found = [rule for place in places if place.is_dir() for rule in sorted(place.rglob("rule.json"))]
        if not found:
            return choose_judge_template("llava-bench", file=None, data=data)
        file = found[0]
    if file.suffix != ".json":
        return choose_judge_template("llava-bench", file=file, data=data)
    rules = read_rules(file)
    missing = [category for category in CATEGORIES if _rule_of(category, rules) is None]
    if missing:
        raise AmpError(f"'{file}' has no rule for the category '{missing[0]}'", hint="Give --judge-template FILE")
    prefix = "llava_bench_" if f"llava_bench_{CATEGORIES[0]}" in rules else ""
    name = f"{file.name} ({', '.join(prefix + category for category in CATEGORIES)})"
    return JudgeRules(rules=rules, identity={"name": name, "origin": "official", "sha256": content_hash(file)})


def _rule_of(category: str, rules: Mapping[str, str]) -> str | None:
    """Return a category's rule: as the released code does, the in-the-wild wording where there is one."""
    return rules.get(f"llava_bench_{category}", rules.get(category))


def prompt(item: BenchmarkItem, answer: Answer, wording: JudgeTemplate | JudgeRules) -> Messages:
    """Return what the judge is told."""
    values = {
        "context": item.reference["context"],
        "question": item.questions[0],
        "reference": item.reference["answers"][0],
        "answer": answer.answers[0],
    }
    if isinstance(wording, JudgeTemplate):
        return llava_bench_prompt(wording, **values)
    rule = _rule_of(item.reference["category"], wording.rules)
    assert rule is not None  # checked when the rules were read
    return llava_bench_rule_prompt(rule, **values)


def verdict_line(item: BenchmarkItem, wording: JudgeTemplate | JudgeRules) -> str | None:
    """Return None: the scores stand in the first line, which no structured reply has."""
    return None


def read(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str) -> dict[str, Reading]:
    """Read one repeat's verdicts."""
    reader = read_pair_official if rule == "official" else read_pair_strict
    return {item_id: reader(verdict.text) for item_id, verdict in verdicts.items()}


def group_of(item: BenchmarkItem, rule: str) -> str:
    """Return the question's category."""
    return str(item.reference["category"])


def rows(scores: Sequence[JudgedScore]) -> "Array":
    """Return (items, categories * 3): by category whether it is the item's, the reference's score, the model's."""
    return contributions(scores, CATEGORIES, 3, lambda ratings: (1.0, ratings[0], ratings[1]))


def rates(sums: "Array") -> dict[str, "Array"]:
    """Name mean scores and 100 * model / reference of each category and over all, from (draws, categories * 3) sums."""
    by_category = sums.reshape(len(sums), len(CATEGORIES), 3)
    named = {}
    for group, (count, reference, model) in (
        *((name, by_category[:, number].T) for number, name in enumerate(CATEGORIES)),
        ("overall", by_category.sum(axis=1).T),
    ):
        named[f"{group}/reference"] = ratio(reference, count)
        named[f"{group}/model"] = ratio(model, count)
        named[f"{group}/relative"] = 100 * ratio(model, reference)
    return named


def summarise(scores: Sequence[JudgedScore], rule: str) -> dict[str, Any]:
    """Return the relative score and both mean scores of each category and over all."""
    measured = measure(scores, rows, rates)
    present = [name for name in CATEGORIES if any(one.group == name for one in scores)]
    blocks = {
        name: _block([one for one in scores if name in (one.group, "overall")], measured, name, rule)
        for name in (*present, "overall")
    }
    overall = blocks.pop("overall")
    summary: dict[str, Any] = {"categories": blocks, "overall": overall}
    summary["n"] = len(scores)
    summary["unscored"] = unscored(scores)
    if rule == "official" and measured.spread is None:
        printed = {"all": overall} | {f"llava_bench_{name}": block for name, block in sorted(blocks.items())}
        summary["printed"] = [f"{name} {_printed(block)}" for name, block in printed.items()]
    return summary | {"spread": measured.spread, "interval": METHOD}


def _block(scores: Sequence[JudgedScore], measured: Measured, name: str, rule: str) -> dict[str, Any]:
    """Return a category's scores. The official script rounds both means to 3 digits before it divides them."""
    block = measured.block(name, SCORES)
    if rule == "official":
        reference, model = (None if block[one] is None else round(block[one], 3) for one in ("reference", "model"))
        relative = None if reference is None or model is None or reference == 0 else model / reference * 100
        block |= {"reference": reference, "model": model, "relative": relative}
    return {**block, "n": len(scores), "unscored": unscored(scores)}


def _printed(block: Mapping[str, Any]) -> str:
    """Return the numbers as the official script prints them: relative, reference and model times 10."""
    numbers = (block["relative"], *(None if block[name] is None else block[name] * 10 for name in SCORES[1:]))
    return " ".join("nan" if number is None else str(round(number, 1)) for number in numbers)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one table: a line for each category and one for all."""
    return [(title_of(scores), *block_rows({**scores["categories"], "overall": scores["overall"]}, SCORES))]


def _relative(title: str, group: str) -> Column:
    place = group if group == "overall" else f"categories/{group}"
    return replace(column(title, f"{place}/relative", full=120.0), difference=f"{group}/relative")


def rated(ratings: Sequence[float]) -> Rated:
    """Say how the answer was rated beside the reference."""
    reference, model = ratings
    return Rated(words=f"rated {model:g} of 10, the reference {reference:g}", fault=1 - model / 10)


BENCHMARK = judged_benchmark(
    name="llava-bench",
    title="LLaVA-Bench (COCO): score relative to the reference answer, %",
    help="""Ask LLaVA-Bench's 90 questions about COCO images; a judge scores reference and answer from 1 to 10.

    Example: amp eval llava-bench --model 7b --judge gpt-4o-2024-08-06 --out runs/base-llava-bench
    """,
    data="Folder with qa90_*.jsonl, caps_boxes*.jsonl, rule.json",
    files=("qa90_questions.jsonl",),
    load=load,
    adopt=adopt,
    judge=Judged(
        temperature=0.2,
        substitute="counts them as -1 and -1",
        wording=wording,
        prompt=prompt,
        verdict_line=verdict_line,
        adopt_verdicts=adopt_verdicts,
        read=read,
        group_of=group_of,
    ),
    rows=rows,
    rates=rates,
    summarise=summarise,
    tables=tables,
    columns=(
        _relative("conversation", "conv"),
        _relative("detail", "detail"),
        _relative("complex", "complex"),
        _relative("overall", "overall"),
    ),
    differences=[f"{group}/relative" for group in (*CATEGORIES, "overall")],
    rated=rated,
)
WILD = replace(
    BENCHMARK,
    name="llava-bench-wild",
    title="LLaVA-Bench (in the wild): score relative to the reference answer, %",
    help="""Ask LLaVA-Bench's 60 in-the-wild questions; a judge scores reference and answer from 1 to 10.

    Example: amp eval llava-bench-wild --model 7b --judge gpt-4o-2024-08-06 --out runs/base-wild
    """,
    options=data_options("Folder with questions, context and answers_gpt4.jsonl"),
    files=("context.jsonl",),
)
