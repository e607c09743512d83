"""Judge templates: our own wordings, the official ones read from the user's benchmark files, and any file of a user."""

import ast
import hashlib
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.parsing import read_json, read_text
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError

PLACEHOLDERS = {
    "mmhal": ("contents", "question", "reference", "answer"),
    "mrhal": ("contents", "rounds", "dialogue"),
    "llava-bench": ("context", "question", "reference", "answer"),
    "hallusionbench": ("question", "reference", "answer"),
    "object-halbench": ("question", "answer"),
}
"""What a template may hold, in the order of an official template's empty braces; besides `{fence}`."""
OFFICIAL_SCRIPTS = {"mmhal": ("eval_gpt4.py", "eval_gpt_mmhal.py"), "mrhal": ("eval_gpt_mrhal.py", "eval_gpt4.py")}


@dataclass(frozen=True, kw_only=True)
class JudgeTemplate:
    """A wording. `origin` is `own`, `official` or `file`; name, origin and sha256 stand in every score.

    Braces mean what they mean to `str.format`: `{question}` or, in official ones, `{}` are filled, `{{` is a brace.
    """

    name: str
    origin: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """What a score says of it."""
        return {"name": self.name, "origin": self.origin, "sha256": self.sha256}

    @property
    def places(self) -> int:
        """How many empty braces it has, as official templates do; 0 where placeholders have names."""
        return sum(field == "" for _, field in self._parts())

    def _parts(self) -> Iterator[tuple[str, str | None]]:
        """Yield (literal text, name of the placeholder after it, or None)."""
        try:
            for literal, field, form, conversion in string.Formatter().parse(self.text):
                if form or conversion or (field and not field.isidentifier()):
                    raise AmpError(
                        f"The judge template '{self.name}' has the placeholder '{{{field}...}}', which is not valid",
                        hint="Write a brace that is not a placeholder twice: {{ and }}",
                    )
                yield literal, field
        except ValueError as error:
            raise AmpError(
                f"The braces of the judge template '{self.name}' are unbalanced: {error}",
                hint="Write {{ and }} for braces that stay",
            ) from error

    def check(self, benchmark: str) -> "JudgeTemplate":
        """Return the template if it fits a benchmark.

        Raises:
            AmpError: it has unknown placeholders, mixes both kinds, or leaves out what is to be judged.
        """
        known = PLACEHOLDERS[benchmark]
        fields = [field for _, field in self._parts() if field is not None]
        empty = fields.count("")
        hint = f"Use {', '.join(f'{{{name}}}' for name in known)} and {{fence}}"
        unknown = next((field for field in fields if field and field not in (*known, "fence")), None)
        if unknown is not None:
            raise AmpError(f"The judge template '{self.name}' has the unknown placeholder '{{{unknown}}}'", hint=hint)
        if empty:
            allowed = (2, 3) if benchmark == "mrhal" else (len(known),)
            if empty != len(fields) or empty not in allowed:
                raise AmpError(
                    f"The judge template '{self.name}' has {empty} empty braces, not {allowed[-1]}", hint=hint
                )
        elif known[-1] not in fields:
            raise AmpError(f"The judge template '{self.name}' never shows '{{{known[-1]}}}'", hint=hint)
        return self

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the values in; whatever braces they hold stay as they are. Empty braces take them in their order."""
        in_order = iter(values.values())
        parts = []
        for literal, field in self._parts():
            parts.append(literal)
            if field is not None:
                parts.append(values[field] if field else next(in_order))
        return "".join(parts)


def choose_judge_template(benchmark: str, *, file: Path | None = None, data: Path | None = None) -> JudgeTemplate:
    """Return the template of `--judge-template`, else the official one among the benchmark's files, else our own.

    Args:
        benchmark: a key of PLACEHOLDERS; the official wording of `llava-bench` is `read_rules`' matter.
        data: the benchmark's folder; its official script is looked for in it and one folder above.
    """
    if file is not None:
        return template_from_file(file, origin="file").check(benchmark)
    if data is not None:
        folder = data if data.is_dir() else data.parent
        for name in OFFICIAL_SCRIPTS.get(benchmark, ()):
            for place in (folder / name, folder.parent / name):
                if place.is_file():
                    return template_from_file(place, origin="official").check(benchmark)
    return own_template(benchmark)


def own_template(benchmark: str) -> JudgeTemplate:
    """Return our own wording for a benchmark."""
    name = benchmark.replace("-", "_") + ".txt"
    text = template_path("judge", name).read_text(encoding="utf-8")
    return JudgeTemplate(name=f"amp/{name}", origin="own", text=text).check(benchmark)


def template_from_file(path: Path, *, origin: str) -> JudgeTemplate:
    """Read a template: a text file, or a Python script's template text, which is parsed and never run.

    Raises:
        AmpError: no such file, not UTF-8, or a script without such a text.
    """
    text = read_text(path)
    if path.suffix == ".py":
        text = _template_in_script(text, path)
    return JudgeTemplate(name=path.name, origin=origin, text=text)


def _template_in_script(source: str, path: Path) -> str:
    """Return the longest text with empty braces that a script assigns to a name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise AmpError(
            f"'{path}' is not a readable Python script: {error}", hint="Give the template as a text file"
        ) from error
    texts = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and "{}" in node.value.value
    ]
    if not texts:
        raise AmpError(f"'{path}' assigns no template text with '{{}}' in it", hint="Give --judge-template FILE")
    return max(texts, key=len)


def read_rules(path: Path) -> dict[str, str]:
    """Read LLaVA-Bench's `rule.json`: what the judge is told, by category.

    Raises:
        AmpError: it is not an object of {"role", "prompt"}.
    """
    rules: dict[str, str] = {}
    content: Any = read_json(path)
    if not isinstance(content, dict) or not content:
        raise AmpError(
            f"'{path}' does not hold rules by category",
            hint='Its form is {"conv": {"role": "Assistant", "prompt": "..."}}',
        )
    for category, rule in content.items():
        if not isinstance(rule, dict) or not isinstance(rule.get("prompt"), str):
            raise AmpError(
                f"The rule '{category}' in '{path}' has no text 'prompt'",
                hint='Its form is {"conv": {"role": "Assistant", "prompt": "..."}}',
            )
        rules[category] = rule["prompt"]
    return rules


Messages = tuple[tuple[str, str], ...]


def filled(template: JudgeTemplate, **values: str) -> Messages:
    """Return a template with its values, which stand in the order of an official template's empty braces."""
    return (("user", template.fill(values | {"fence": mark(values.values())})),)


def mmhal_prompt(
    template: JudgeTemplate, *, contents: Sequence[str], question: str, reference: str, answer: str
) -> Messages:
    """Return what the judge is told of one question."""
    return filled(template, contents=", ".join(contents), question=question, reference=reference, answer=answer)


def mrhal_prompt(
    template: JudgeTemplate,
    *,
    contents: Sequence[str],
    questions: Sequence[str],
    references: Sequence[str],
    answers: Sequence[str],
) -> Messages:
    """Return what the judge is told of one dialogue. A template with two empty braces gets the rounds at its end.

    As in the released code, questions lose their image tag, and questions and references the blanks around them.
    """
    rounds = [
        (question.replace("<image>", "").strip(), reference.strip(), answer)
        for question, reference, answer in zip(questions, references, answers, strict=True)
    ]
    fence = mark([*contents, *questions, *references, *answers])
    if template.places:
        dialogue = "\n".join(map(_official_round, *zip(*rounds, strict=True)))
    else:
        dialogue = "\n\n".join(_own_round(number, *texts, fence) for number, texts in enumerate(rounds, start=1))
    values = {"contents": ", ".join(contents), "rounds": str(len(rounds)), "dialogue": dialogue}
    text = template.fill(values | {"fence": fence})
    if 0 < template.places < len(values):
        text = f"{text.rstrip()}\n\n{dialogue}"
    return (("user", text),)


def _official_round(question: str, reference: str, answer: str) -> str:
    return (
        f"### Question\n{question}\n\n### Standard Human-Generated Answer\n{reference}\n\n"
        f"### LMM Response to Evaluate\n{answer}\n"
    )


def _own_round(number: int, question: str, reference: str, answer: str, fence: str) -> str:
    return (
        f"Round {number}\nQuestion:\n{question}\nThe person's answer:\n{reference}\nThe model's answer:\n"
        f"----- begin {fence} -----\n{answer}\n----- end {fence} -----"
    )


def llava_bench_prompt(
    template: JudgeTemplate, *, context: str, question: str, reference: str, answer: str
) -> Messages:
    """Return what the judge is told of one question and its two answers, by a template."""
    return filled(template, context=context, question=question, reference=reference, answer=answer)


def llava_bench_rule_prompt(rule: str, *, context: str, question: str, reference: str, answer: str) -> Messages:
    """Return what the judge is told by one of `rule.json`'s rules, laid out as the official script does."""
    return (
        (
            "user",
            f"[Context]\n{context}\n\n[Question]\n{question}\n\n[Assistant 1]\n{reference}\n\n[End of Assistant 1]\n\n"
            f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n{rule}\n\n",
        ),
    )


def mark(texts: Iterable[str]) -> str:
    """Return a mark that stands around answers: always the same for the same texts, and in none of them."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]
