"""`amp prefs`: preference data in and out, checked, counted, looked at, mixed."""

import typer

app = typer.Typer(help="Preference data: import, check, look at, mix and export it.", no_args_is_help=True)
