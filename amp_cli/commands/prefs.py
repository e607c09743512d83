"""`amp prefs`: preference data in and out, checked, counted, looked at, mixed."""

from amp_cli.commands.command_line import CommandLine
from amp_cli.commands.preferences import checking, exporting, importing, mixing, stats, view

app = CommandLine(help="Preference data: import, check, look at, mix and export it.", no_args_is_help=True)

app.command("import")(importing.import_prefs)
app.command("check")(checking.check)
app.command("export")(exporting.export)
app.command("mix")(mixing.mix)
app.command("stats")(stats.stats)
app.command("view")(view.view)
