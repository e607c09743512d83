"""One thin file per `amp prefs` command."""
