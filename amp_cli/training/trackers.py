"""Where `report_to` sends the metrics: one run of a tracker for one run folder, also where it goes on after a kill.

transformers' own callbacks do the logging; most of them take what is said here from environment variables, and what the
user has set of these goes before.
"""

import os
from hashlib import sha256
from pathlib import Path

from amp_cli.disk.run import Run

PROJECT = "amp"


def run_name(run_folder: Path) -> str:
    """Return what a tracker calls a run: the folder's name, and what tells it from others of that name."""
    told = f"{run_folder.resolve()} {Run.read(run_folder).facts['started']}"
    return f"{run_folder.resolve().name}-{sha256(told.encode()).hexdigest()[:8]}"


def prepare_tracker(report_to: str, run_folder: Path) -> None:
    """Have a tracker go on with the run that an earlier process of this run folder began."""
    for name, value in _variables(report_to, run_folder).items():
        os.environ.setdefault(name, value)
    if report_to == "swanlab":
        _begin_swanlab(run_name(run_folder))


def _variables(report_to: str, run_folder: Path) -> dict[str, str]:
    name = run_name(run_folder)
    if report_to == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": str(run_folder / "checkpoints" / "runs" / "all")}
    if report_to == "wandb":
        return {"WANDB_PROJECT": PROJECT, "WANDB_RUN_ID": name, "WANDB_RESUME": "allow"}
    if report_to == "mlflow":
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        begun = _mlflow_run(name, experiment)
        return {"MLFLOW_EXPERIMENT_NAME": experiment} | ({} if begun is None else {"MLFLOW_RUN_ID": begun})
    return {}  # trackio goes on with the run of this name


def _begin_swanlab(name: str) -> None:
    """Begin SwanLab's run before transformers' callback does, which asks first for one that is there.

    Asked for a run where there is none, SwanLab 0.10 raises an error instead of answering None; and it cannot begin
    where the variable SWANLAB_PROJECT is set, which transformers would read.
    """
    import swanlab

    swanlab.init(
        project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT),
        name=os.environ.get("SWANLAB_EXP_NAME", name),
        id=os.environ.get("SWANLAB_RUN_ID", name),
        resume=os.environ.get("SWANLAB_RESUME", "allow"),
    )


def _mlflow_run(name: str, experiment: str) -> str | None:
    """Return the id of the run that MLflow knows by a name; it gives ids of its own."""
    import mlflow

    runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string=f"attributes.run_name = '{name}'",
        max_results=1,
        output_format="list",
    )
    return runs[0].info.run_id if runs else None
