"""LLaVA-Bench's files: questions, reference answers and descriptions of the pictures; upstream's answers, reviews."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.answers import add_answer, records_of
from amp_cli.benchmarks.json_lists import spoken, text_field
from amp_cli.benchmarks.pictures import COCO_PREFIX
from amp_cli.benchmarks.verdict_files import check_verdicts, own_verdicts
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

CATEGORIES = ("conv", "detail", "complex")
QUESTIONS = ("qa90_questions.jsonl", "questions.jsonl")
REFERENCES = ("qa90_gpt4_answer.jsonl", "answers_gpt4.jsonl")
CONTEXT = ("caps_boxes_coco2014_val_80.jsonl", "context.jsonl")


@dataclass(frozen=True, kw_only=True)
class LlavaBenchFiles:
    """What is asked, what is known of the pictures, and the answers that a model's are compared with."""

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
    """Join questions to reference answers by `question_id` and to descriptions by picture."""
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
            raise AmpError(f"'{files.references}' has no answer to question_id {item_id}")
        if _bare(image) not in contexts:
            raise AmpError(f"'{files.context}' does not describe '{image}'")
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
        raise AmpError(f"{where} has no question_id")
    return str(record["question_id"])


def _by_question(records: Sequence[Mapping[str, Any]], path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        item_id, text = _question_id(record, where), text_field(record, "text", where)
        if texts.setdefault(item_id, text) != text:
            raise AmpError(f"'{path}' answers question_id {item_id} twice and differently")
    return texts


def _context(record: Mapping[str, Any], path: Path) -> str:
    """Return a picture's description: captions line by line, then boxes; in the wild one caption."""
    captions = record.get("captions", record.get("caption"))
    lines = [captions] if isinstance(captions, str) else captions
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise AmpError(f"'{path}' has no caption of '{record.get('image')}'")
    text = "\n".join(lines)
    boxes = record.get("instances")
    if not boxes:
        return text
    try:
        return f"{text}\n\n" + "\n".join(f"{box['category']}: {box['bbox']}" for box in boxes)
    except (KeyError, TypeError) as error:
        raise AmpError(f"'{path}': a box of '{record.get('image')}' lacks category or bbox") from error


def _refuse_repeated(items: Sequence[BenchmarkItem], path: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise AmpError(f"'{path}' has the question_id {item.id} twice")
        seen.add(item.id)


def upstream_answers(records: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Answer]:
    """Read `question_id` and `text`."""
    answers: dict[str, Answer] = {}
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        answer = Answer(id=_question_id(record, where), answers=(text_field(record, "text", where),))
        add_answer(answers, answer, path)
    return answers


def upstream_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
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
