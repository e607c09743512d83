"""What a shell offers for a value that is half typed; nothing heavy is imported for it.

Each function takes what has been typed of a value. Where none of its words fits, the shell offers files.
"""


def sizes(incomplete: str) -> list[str]:
    from amp_cli.training.config import known_sizes

    return _beginning(known_sizes(), incomplete)


def recipes(incomplete: str) -> list[str]:
    return _beginning(["paper", "released"], incomplete)


def methods(incomplete: str) -> list[str]:
    from amp_cli.training.config import METHODS

    return _beginning(METHODS, incomplete)


def references(incomplete: str) -> list[str]:
    from amp_cli.training.config import REFERENCES

    return _beginning(REFERENCES, incomplete)


def settings(incomplete: str) -> list[tuple[str, str]]:
    """Offer each training setting with its default, and behind `key=` the texts that it may be."""
    from dataclasses import MISSING, fields

    from amp_cli.training.config import CHOICES, TrainConfig
    from amp_cli.training.settings_list import allowed, shown

    key, equals, _ = incomplete.partition("=")
    if equals and key in CHOICES:
        return [(f"{key}={shown(one)}", "") for one in CHOICES[key] if f"{key}={shown(one)}".startswith(incomplete)]
    default = {one.name: "" if one.default is MISSING else shown(one.default) for one in fields(TrainConfig)}
    offered = [(f"{name}={value}", allowed(name)) for name, value in default.items()]
    return [(word, help) for word, help in offered if word.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    from amp_cli.downloads.zoo import KNOWN

    return _beginning([one.name for one in KNOWN if not one.is_encoder and not one.obstacle], incomplete)


def adapters(incomplete: str) -> list[str]:
    from amp_cli.downloads.zoo import KNOWN

    return _beginning([one.name for one in KNOWN if one.base is not None and not one.obstacle], incomplete)


def downloads(incomplete: str) -> list[str]:
    from amp_cli.downloads.sources import BENCHMARK_FILES
    from amp_cli.downloads.zoo import KNOWN

    names = [one.name for one in KNOWN if one.hub_id and not one.obstacle] + [one.name for one in BENCHMARK_FILES]
    return _beginning(names, incomplete)


def formats(incomplete: str) -> list[str]:
    from amp_cli.preferences.formats.formats import FORMATS

    return _beginning(["auto", *FORMATS], incomplete)


def accelerate_configs(incomplete: str) -> list[str]:
    from amp_cli.disk.templates import template_path

    return _beginning(sorted(file.stem for file in template_path("accelerate").glob("*.yaml")), incomplete)


def templates(incomplete: str) -> list[str]:
    from amp_cli.disk.templates import template_path

    own = sorted(file.stem for file in template_path("chat").glob("*.jinja"))
    return _beginning(["auto", "authors", "own", *own], incomplete)


def dtypes(incomplete: str) -> list[str]:
    return _beginning(["auto", "float32", "bfloat16", "float16", "stored"], incomplete)


def devices(incomplete: str) -> list[str]:
    return _beginning(["auto", "cpu", "cuda", "mps"], incomplete)


def quantizations(incomplete: str) -> list[str]:
    return _beginning(["nf4", "int8"], incomplete)


def encoders(incomplete: str) -> list[str]:
    return _beginning(["minilm", "world", "clip:", "sentence:"], incomplete)


def _beginning(words: "list[str] | tuple[str, ...]", incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
