"""What each benchmark consists of and where its owners keep it: pinned addresses, sizes, checksums, contents.

A size or checksum stands here only if its owner or several public projects state it: LLaVA-Bench's come from the Git
LFS pointers of its repository, those of RePOPE, DASH-B, HallusionBench and Object HalBench are blob ids of theirs, the
archives' MD5 come from LAVIS, GluonCV and others. Elsewhere the content is checked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.entries import read_entries
from amp_cli.downloads.checks import key_check, record_check, text_check
from amp_cli.downloads.http_files import RemoteFile
from amp_cli.downloads.remote_zip import Archive

GITHUB = "https://raw.githubusercontent.com"
POPE_COMMIT = "08d957b917e5a378a2f99d35b6293c536a66298b"
REPOPE_COMMIT = "bcf22e5690d587cce34e1728af3efdcfaf747d29"
LLAVA_COMMIT = "8959d5c383ed194be6baf94c99d050bdbc2d137f"
LLAVA_RULES_COMMIT = "181a2f811f1eb0b794c25e87204491d812c05f8d"
AMBER_COMMIT = "5e1fd52f8ea69150c70f0ba15de70af3a907a1fd"
DASHB_COMMIT = "1538d01da15ef152dca8a8405da3f9444e26661d"
HALLUSION_COMMIT = "744007c232c292942c7f80eb61edb2465482da31"
RLAIFV_COMMIT = "83d917b2e8118ca8e7877a796d72af9bb3e6b356"
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
"""The bucket behind images.cocodataset.org, whose own certificate does not fit its name."""

IMAGES = "val2014"
VAL2014 = Archive(
    url=f"{COCO}/zips/val2014.zip",
    file="val2014.zip",
    bytes=6645013297,
    checksum="md5:a3d79f5ed8d289b7a7554ce06a5782b3",
)
ANNOTATIONS = Archive(
    url=f"{COCO}/annotations/annotations_trainval2014.zip",
    file="annotations_trainval2014.zip",
    bytes=252872794,
    checksum="md5:0a379cfc70b0e71301e0f377548639bd",
)


@dataclass(frozen=True, kw_only=True)
class Members:
    """The files of an archive that a benchmark needs. `wanted` reads their names out of the benchmark's own files."""

    archive: Archive
    wanted: Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class HubData:
    """A dataset repository of the hub, and which of its files are taken."""

    repo: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BenchmarkFiles:
    """A benchmark's files. `note` says what is not fetched and how to get it; {folder} stands for its folder."""

    name: str
    what: str
    files: tuple[RemoteFile, ...] = ()
    members: Members | None = None
    data: HubData | None = None
    note: str = ""


def _github(repo: str, commit: str, path: str, target: str, **known: Any) -> RemoteFile:
    return RemoteFile(path=target, url=f"{GITHUB}/{repo}/{commit}/{path}", **known)


def _pope(split: str) -> RemoteFile:
    name = f"coco_pope_{split}.json"
    fields = ("question_id", "image", "text", "label")
    check = record_check((3000,), fields, "questions")
    return _github("AoiDragon/POPE", POPE_COMMIT, f"output/coco/{name}", name, check=check)


def _repope(split: str, questions: int, size: int, blob: str) -> RemoteFile:
    name = f"coco_repope_{split}.json"
    check = record_check((questions,), ("question_id", "image", "text", "label"), "questions")
    path = f"annotations/{name}"
    return _github("YanNeu/RePOPE", REPOPE_COMMIT, path, name, bytes=size, checksum=f"git:{blob}", check=check)


def _dashb(split: str, size: int, blob: str) -> RemoteFile:
    name, check = f"dash_benchmark_{split}.json", key_check("coco", "spurious_imagenet")
    return _github(
        "YanNeu/DASH-B", DASHB_COMMIT, f"images/{name}", name, bytes=size, checksum=f"git:{blob}", check=check
    )


def _amber(path: str, check: Callable[[Path], str]) -> RemoteFile:
    return _github("junyangwang0410/AMBER", AMBER_COMMIT, f"data/{path}", path, check=check)


def _images_named_in(*files: str) -> Callable[[Path], Mapping[str, str]]:
    """Return a function that reads the names of COCO images out of records' `image` fields."""

    def wanted(folder: Path) -> Mapping[str, str]:
        names = {
            str(record["image"]) for file in files for _, record, _ in read_entries(folder / file) if record is not None
        }
        return {f"{IMAGES}/{name}": f"val2014/COCO_val2014_{_number(name)}" for name in sorted(names)}

    return wanted


def _number(name: str) -> str:
    return Path(name).name.removeprefix("COCO_val2014_")


def _annotation_files(folder: Path) -> Mapping[str, str]:
    names = ("instances_val2014.json", "captions_val2014.json")
    return {f"annotations/{name}": f"annotations/{name}" for name in names}


_QUERY = ("id", "image", "query")
_LLAVA = "haotian-liu/LLaVA"
_LLAVA_DATA = "playground/data/coco2014_val_qa_eval"

BENCHMARK_FILES: tuple[BenchmarkFiles, ...] = (
    BenchmarkFiles(
        name="pope",
        what="POPE: 9,000 yes/no questions about 500 COCO images",
        files=tuple(_pope(split) for split in ("random", "popular", "adversarial")),
        members=Members(
            archive=VAL2014,
            wanted=_images_named_in(*(f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial"))),
        ),
        note="amp eval pope --data {folder} --image-root {folder}/val2014",
    ),
    BenchmarkFiles(
        name="repope",
        what="RePOPE: 8,185 of POPE's questions with corrected labels",
        files=(
            _repope("random", 2774, 340368, "708e33eb98ea0f2a5c54e8bcd53bd963f29b8bd7"),
            _repope("popular", 2727, 333773, "e359d9ce2edefe00d706065f115823714e66bb79"),
            _repope("adversarial", 2684, 328764, "4ab3acbd36f5c4025c752609908e7262bff410c6"),
        ),
        note="amp eval repope --answers POPE_RUN/answers.jsonl scores answers made for POPE; "
        "the images are those of `amp download pope`",
    ),
    BenchmarkFiles(
        name="dashb",
        what="DASH-B: 2,682 yes/no questions, half about objects that are not there",
        files=(
            _dashb("neg", 42487, "f682284c1c4178d9f7831430b237c96e3100935e"),
            _dashb("pos", 32227, "076c80004a98b85c9a0577e4fd1b8b83017c949a"),
        ),
        note="The images are two archives of the authors' cloud "
        "(https://nc.mlcloud.uni-tuebingen.de/index.php/s/HJKbBWpgLFz4rN5/download/neg.zip and "
        ".../s/ppZeYNayJXiogjP/download/pos.zip): unpack them so that {folder}/neg/coco and {folder}/pos/coco exist",
    ),
    BenchmarkFiles(
        name="hallusionbench",
        what="HallusionBench: 1,129 yes/no questions, 951 of them on 346 figures",
        files=(
            _github(
                "tianyi-lab/HallusionBench",
                HALLUSION_COMMIT,
                "HallusionBench.json",
                "HallusionBench.json",
                bytes=431987,
                checksum="git:a19eb17b6225c5fb6db0a0843fa460fa808319cf",
                check=record_check((1129,), ("category", "set_id", "figure_id", "question", "gt_answer"), "questions"),
            ),
        ),
        note="The figures are on Google Drive and must be downloaded by hand "
        "(https://drive.google.com/file/d/1eeO1i0G9BSZTE1yd5XeFwmrbe1hwyf_0/view): "
        "unpack them so that {folder}/hallusion_bench/VD exists",
    ),
    BenchmarkFiles(
        name="humblebench",
        what="HumbleBench: 22,831 questions with five choices about 3,582 images",
        data=HubData(
            repo="maifoundations/HumbleBench", patterns=("*metadata.jsonl", "*.jpg", "*.jpeg", "*.png", "*.zip")
        ),
    ),
    BenchmarkFiles(
        name="object-halbench",
        what="Object HalBench: 300 questions with their COCO images, and COCO's annotations",
        files=(
            _github(
                "RLHF-V/RLAIF-V",
                RLAIFV_COMMIT,
                "eval/data/obj_halbench_300_with_image.jsonl",
                "obj_halbench_300_with_image.jsonl",
                checksum="git:cb8e15a81a1ddf720f306fda0decefb1ed80c31f",
                check=record_check((300,), ("image_id", "question"), "questions"),
            ),
            _github(
                "RLHF-V/RLAIF-V",
                RLAIFV_COMMIT,
                "eval/data/synonyms_refine.txt",
                "synonyms_refine.txt",
                bytes=3594,
                checksum="git:87b25aa23b342364e017e84714ff76cec1b069f4",
                check=text_check,
            ),
        ),
        members=Members(archive=ANNOTATIONS, wanted=_annotation_files),
        note="amp eval object-halbench --data {folder}; the images are in the file of questions",
    ),
    BenchmarkFiles(
        name="llava-bench",
        what="LLaVA-Bench (COCO): 90 questions about 30 images",
        files=(
            _github(
                _LLAVA,
                LLAVA_COMMIT,
                f"{_LLAVA_DATA}/qa90_questions.jsonl",
                "qa90_questions.jsonl",
                bytes=12242,
                checksum="sha256:2a77196696b5602b544244ace9aeac21300513be85b5e53eb2414d00cddbe1c7",
                check=record_check((90,), ("question_id", "image", "text", "category"), "questions"),
            ),
            _github(
                _LLAVA,
                LLAVA_COMMIT,
                f"{_LLAVA_DATA}/qa90_gpt4_answer.jsonl",
                "qa90_gpt4_answer.jsonl",
                bytes=41305,
                checksum="sha256:5fd1a760483fb54e62a717a406add8a986f3e03a40d037b5d6515828cc90dbc5",
                check=record_check((90,), ("question_id", "text"), "answers"),
            ),
            _github(
                _LLAVA,
                LLAVA_COMMIT,
                "llava/eval/table/caps_boxes_coco2014_val_80.jsonl",
                "caps_boxes_coco2014_val_80.jsonl",
                bytes=58574,
                checksum="sha256:818d3df2b52784699bbdc129b6bc68e035d78ff8f5093c3e2ce5e0f726549b15",
                check=record_check((80,), ("image", "captions", "instances"), "captions"),
            ),
            _github(
                _LLAVA,
                LLAVA_RULES_COMMIT,
                "llava/eval/table/rule.json",
                "rule.json",
                check=key_check("conv", "detail", "complex", "llava_bench_conv"),
            ),
        ),
        members=Members(archive=VAL2014, wanted=_images_named_in("qa90_questions.jsonl")),
        note="The images have the names that the questions give them, in {folder}/val2014",
    ),
    BenchmarkFiles(
        name="llava-bench-wild",
        what="LLaVA-Bench (in the wild): 60 questions about 24 images",
        data=HubData(repo="liuhaotian/llava-bench-in-the-wild", patterns=("*.jsonl", "images/*")),
    ),
    BenchmarkFiles(
        name="mmhal",
        what="MMHal-Bench: 96 questions, judged",
        data=HubData(repo="Shengcao1006/MMHal-Bench", patterns=("response_template.json", "images/*", "eval_gpt4.py")),
    ),
    BenchmarkFiles(
        name="mrhal",
        what="MRHal-Bench: 105 dialogues, judged",
        data=HubData(
            repo="mengxizhang/MRHal-Bench",
            patterns=("*.json", "*.jsonl", "*.jpg", "*.jpeg", "*.png", "*.zip", "*.parquet"),
        ),
    ),
    BenchmarkFiles(
        name="chair",
        what="CHAIR: COCO val2014 objects and captions",
        members=Members(archive=ANNOTATIONS, wanted=_annotation_files),
        note="Annotations only. Give the val2014 images with --image-root "
        f"({VAL2014.url}, or those of `amp download pope`)",
    ),
    BenchmarkFiles(
        name="amber",
        what="AMBER: 15,220 questions about 1,004 images",
        files=(
            _amber("query/query_all.json", record_check((15220,), _QUERY, "questions")),
            _amber("query/query_generative.json", record_check((1004,), _QUERY, "questions")),
            _amber("query/query_discriminative.json", record_check((14216,), _QUERY, "questions")),
            _amber("query/query_discriminative-existence.json", record_check((4924,), _QUERY, "questions")),
            _amber("query/query_discriminative-attribute.json", record_check((7628,), _QUERY, "questions")),
            _amber("query/query_discriminative-relation.json", record_check((1664,), _QUERY, "questions")),
            _amber("annotations.json", record_check((15220,), ("id", "type", "truth"), "annotations")),
            _amber("relation.json", key_check()),
            _amber("safe_words.txt", text_check),
            _amber("metrics.txt", text_check),
        ),
        note="The images are on Google Drive and must be downloaded by hand "
        "(https://drive.google.com/file/d/1MaCHgtupcZUjf007anNl4_MV0o4DjXvl/view): "
        "unpack them so that {folder}/images/AMBER_1.jpg exists",
    ),
)


def find_benchmark(name: str) -> BenchmarkFiles | None:
    """Return the benchmark of that name; None where there is none."""
    return next((benchmark for benchmark in BENCHMARK_FILES if benchmark.name == name), None)
