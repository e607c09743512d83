"""A command that is told to stop ends within two seconds, says in one line what is kept, and leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from amp_cli import launching
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.launching import killed_by
from tests.training.test_launch import run_script
from tests.training.test_trainer import RAGGED

ROOT = Path(__file__).resolve().parents[1]
READY = "ready\n"
BEGIN = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one under nohup with this
from amp_cli import stopping
from amp_cli.disk.run import Run
out = Path(sys.argv[1])
with stopping.heard():
"""


def start(out: Path, body: str, *more: str) -> "subprocess.Popen[str]":
    """Start a command of these lines, and wait until it says that it is ready."""
    script = BEGIN + "".join(f"    {line}\n" for line in body.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == READY, process.communicate()[1]
    return process


def told(process: "subprocess.Popen[str]", *signals: signal.Signals) -> tuple[int, str, float]:
    """Tell it to stop; return its status, what it said, and how long it took."""
    begin = time.monotonic()
    for one in signals:
        process.send_signal(one)
        time.sleep(0.2)
    _, said = process.communicate(timeout=20)
    return process.returncode, said, time.monotonic() - begin


RUNNING = """
run = Run.start(out, command="train", settings={})
print("ready", flush=True)
"""
SLEEPING = RUNNING + "time.sleep(60)"
SWALLOWING = (
    RUNNING
    + """
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
)


@pytest.mark.parametrize(
    ("one", "status", "by"),
    [(signal.SIGINT, 130, ""), (signal.SIGTERM, 143, " by SIGTERM"), (signal.SIGHUP, 129, " by SIGHUP")],
)
@pytest.mark.parametrize("body", [SLEEPING, SWALLOWING])
def test_every_signal_ends_a_command_within_two_seconds(
    tmp_path: Path, one: signal.Signals, status: int, by: str, body: str
) -> None:
    out = tmp_path / "out"
    returncode, said, seconds = told(start(out, body), one)
    assert (returncode, said) == (
        status,
        f"Interrupted{by}: what is finished is kept in '{out}'. The same command goes on from there.\n",
    )
    assert seconds < 2
    facts = json.loads((out / "run.json").read_text())
    assert facts["state"] == "interrupted"
    assert facts["ended"]


def test_an_interruption_within_an_exec_does_not_change_the_status(tmp_path: Path) -> None:
    """A plain KeyboardInterrupt there, as when a dataclass is made, has `python -m` end itself by SIGINT."""
    script = """
import os, signal
import psutil  # first: importing it later would make Python forget
from amp_cli import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
with stopping.heard():
    exec("os.kill(os.getpid(), signal.SIGINT)")
"""
    (tmp_path / "told.py").write_text(script)
    places = os.pathsep.join((str(ROOT), str(tmp_path)))
    done = subprocess.run([sys.executable, "-m", "told"], env={**os.environ, "PYTHONPATH": places}, check=False)
    assert done.returncode == 130


def test_a_destructor_that_swallows_it_shows_no_traceback(tmp_path: Path) -> None:
    body = """
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
slow = Slow()
del slow
time.sleep(60)
"""
    returncode, said, seconds = told(start(tmp_path / "out", body), signal.SIGTERM)
    assert (returncode, said.count("\n")) == (143, 1), said
    assert seconds < 2


def test_after_the_farewell_nothing_is_said_of_what_is_still_being_tidied_up(tmp_path: Path) -> None:
    body = """
from amp_cli import ui
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    ui.SILENCE = 0.05
    with ui.busy("tidying up"):
        time.sleep(0.5)
"""
    _, said, _ = told(start(tmp_path / "out", body), signal.SIGINT)
    assert said == "Interrupted: no result is half-written. The same command begins again; a download goes on.\n"


def test_told_twice_it_ends_at_once_with_one_line(tmp_path: Path) -> None:
    returncode, said, seconds = told(start(tmp_path / "out", SWALLOWING), signal.SIGINT, signal.SIGINT)
    assert (returncode, said.count("Interrupted"), said.count("\n")) == (130, 1, 1)
    assert seconds < 1


def test_before_anything_is_begun_it_says_so_without_a_traceback(tmp_path: Path) -> None:
    body = 'print("ready", flush=True)\ntime.sleep(60)'
    returncode, said, _ = told(start(tmp_path / "out", body), signal.SIGINT)
    assert returncode == 130
    assert said == "Interrupted: no result is half-written. The same command begins again; a download goes on.\n"


def test_what_is_made_beside_its_place_begins_again(tmp_path: Path) -> None:
    _, said, _ = told(start(tmp_path / "merged.part", SLEEPING), signal.SIGINT)
    assert f"nothing was put into '{tmp_path / 'merged'}' yet" in said


def test_who_started_afresh_is_told_how_to_go_on(tmp_path: Path) -> None:
    _, said, _ = told(start(tmp_path / "out", SLEEPING, "--overwrite"), signal.SIGTERM)
    assert said.endswith("The same command without --overwrite goes on from there.\n")


def test_a_run_that_is_done_stays_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told(start(out, RUNNING.replace('print("', 'run.finish()\nprint("') + "time.sleep(60)"), signal.SIGTERM)
    assert json.loads((out / "run.json").read_text())["state"] == "done"


def test_children_and_their_children_are_gone(tmp_path: Path) -> None:
    stubborn = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
    body = f"""
child = subprocess.Popen([sys.executable, "-c", {parent!r}], start_new_session=True)
time.sleep(0.5)
print("ready", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
    process = start(tmp_path / "out", body)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    told(process, signal.SIGTERM)
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    body = 'signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom amp_cli import stopping\nprint("ready", flush=True)'
    script = f"import os, signal, sys, time\n{body}\nwith stopping.heard():\n    time.sleep(0.5)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)  # as `nohup` wants it
    assert process.wait(timeout=10) == 0


def test_once_a_command_has_ended_signals_mean_what_they_meant_before(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
from amp_cli import stopping
stopping.GRACE = 0.1
before = [signal.getsignal(number) for number in stopping.SIGNALS]
with stopping.heard(), stopping.heard():
    assert signal.getsignal(signal.SIGTERM) is not before[1]
assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except stopping.Stopped:
    sys.exit("still heard")
except KeyboardInterrupt:
    time.sleep(0.4)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_whole_command_line_is_ready_before_its_imports() -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "amp_cli", "doctor"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "typer" not in process.stderr.readline():  # the first of them is under way
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait(timeout=10) == 143
    assert "Traceback" not in said
    assert said.count("Interrupted by SIGTERM") == 1


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "said"), [(9, "most often because the memory was full"), (11, "signal 11")])
def test_a_worker_that_the_system_ends_is_reported_so(tmp_path: Path, number: int, said: str) -> None:
    kill = f"import os; os.kill(os.getpid(), {number})"
    unseen, run = tmp_path / "unseen", tmp_path / "run"
    unseen.mkdir()
    with pytest.raises(AmpError, match=said):  # on a machine that does not see the run folder
        run_script(unseen, kill)
    Run.start(run, command="train", settings=RAGGED.to_json())
    with pytest.raises(AmpError, match=said) as caught:
        run_script(run, kill)
    assert "goes on from the last checkpoint" in str(caught.value.hint)
    assert "--tokens-per-step" in str(caught.value.hint)
    assert killed_by(1, tmp_path) is None


def test_the_last_words_of_a_worker_that_aborted_are_shown(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"(?s)signal 6\. The last lines of its log:.*connection was lost"):
        run_script(tmp_path, "import os; print('the connection was lost', flush=True); os.abort()")


def test_a_worker_ends_without_being_taken_apart_once_all_is_said(tmp_path: Path) -> None:
    script = """
import atexit, json, sys
from amp_cli.launching import end_at_once, report
class Aborts:
    def __del__(self):
        import os
        os.abort()
kept = Aborts()
atexit.register(lambda: report(result={"uploaded": 1}))
sys.stderr.write("all is done")
end_at_once()
"""
    assert run_script(tmp_path, script) == {"uploaded": 1}
    assert "all is done" in (tmp_path / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["CalledProcessError(-9, ['python'])", "ChildFailedError('x', {0: failed})"])
def test_the_signal_that_ended_a_worker_comes_through_accelerate(failure: str) -> None:
    script = f"""
import sys
from subprocess import CalledProcessError
from types import SimpleNamespace
from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
failed = SimpleNamespace(exitcode=-9, timestamp=1, local_rank=0, global_rank=0, pid=1, message="")
ChildFailedError.format_msg = lambda self: ""
def fail():
    raise {failure}
launch.main = fail
from amp_cli.launching import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, stdout=subprocess.PIPE
    )
    assert done.returncode == 137


def test_a_fault_that_the_user_can_mend_leaves_where_it_came_from_in_the_log(tmp_path: Path) -> None:
    script = """
from amp_cli.errors import AmpError
from amp_cli.launching import faults_reported
with faults_reported():
    try:
        raise ValueError("deep inside")
    except ValueError as error:
        raise AmpError("The model is odd", hint="Mend it") from error
"""
    with pytest.raises(AmpError, match="The model is odd"):
        run_script(tmp_path, script)
    log = (tmp_path / "train.log").read_text()
    assert "deep inside" in log
    assert log.endswith("The model is odd\n")


def test_a_full_disk_in_a_worker_is_a_sentence(tmp_path: Path) -> None:
    script = """
import errno
from amp_cli.launching import faults_reported
with faults_reported():
    raise OSError(errno.ENOSPC, "No space left on device", "checkpoint-1/optimizer.pt")
"""
    with pytest.raises(AmpError, match=r"Cannot write 'checkpoint-1/optimizer\.pt': No space left on device"):
        run_script(tmp_path, script)


def test_a_log_on_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "train.log").symlink_to("/dev/full")
    with pytest.raises(AmpError, match=r"Cannot write .*train\.log': No space left on device"):
        run_script(tmp_path, "print('a line')")


def test_workers_end_when_nobody_reads_them_any_more(tmp_path: Path) -> None:
    script = "from amp_cli.launching import end_with_parent; end_with_parent(); import time; time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(timeout=10) == 1


def test_patience_with_workers_fits_into_the_two_seconds() -> None:
    from amp_cli import stopping

    assert launching.PATIENCE < stopping.GRACE < 2


SERVING = """
import threading
told = threading.Event()
def ask():
    with stopping.heard_by(lambda: None):
        print("ready", flush=True)
        time.sleep(30)
stopping.say_at_the_end("The page is closed.")
try:
    with stopping.heard_by(told.set):
        threading.Thread(target=ask, daemon=True).start()
        told.wait()
finally:
    out.write_text("closed")
"""


def test_a_page_that_is_at_work_in_a_thread_is_closed_too_and_says_so(tmp_path: Path) -> None:
    status, said, _ = told(start(tmp_path / "page", SERVING), signal.SIGINT)
    assert (status, said) == (130, "The page is closed.\n")
    assert (tmp_path / "page").read_text() == "closed"
