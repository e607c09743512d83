"""The report knows benchmarks only by what they declare; the paper's quoted rows are the one exception."""

from pathlib import Path

import amp_cli.report
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.disk.templates import template_path


def test_no_file_of_the_report_names_a_benchmark() -> None:
    files = [file for file in Path(amp_cli.report.__file__).parent.glob("*.py") if file.name != "paper.py"]
    assert len(files) > 5
    for file in (*files, template_path("report", "report.html.jinja")):
        text = file.read_text(encoding="utf-8").lower().replace("_", "-")
        assert not [name for name in BENCHMARKS if name in text], file.name
