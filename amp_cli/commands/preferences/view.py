"""`amp prefs view`: a page to browse, search and filter preferences in, one file without a server."""

from pathlib import Path
from typing import Annotated

import typer

from amp_cli.commands.options import OUTPUT_PANEL, ImageRootOption, JsonOption, number, train_line

PAGE = "Page"


def view(
    prefs: Annotated[str, typer.Argument(metavar="PREFS", help="File, folder or hub id, in our format or another.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.", rich_help_panel=OUTPUT_PANEL)],
    image_root: ImageRootOption = None,
    limit: Annotated[int, number("--limit", help="Items on the page, the file's first.", rich_help_panel=PAGE)] = 5000,
    thumbnail: Annotated[
        int,
        number("--thumbnail", help="Longest side of the images, in pixels.", rich_help_panel=PAGE),
    ] = 256,
    chunks: Annotated[
        bool,
        typer.Option(
            "--chunks",
            help="Mark what each level names and the best one does not, by auto-check (a few items a second).",
            rich_help_panel=PAGE,
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write one HTML file with images inside: levels side by side, differences marked, search, filters, keys.

    It opens from the disk in any current browser and fetches nothing. Press ? there for the keys.

    Example: amp prefs view preferences.jsonl --out preferences.html
    """
    from amp_cli import ui
    from amp_cli.commands.preferences.stats import tell_leftovers
    from amp_cli.downloads.places import size_text
    from amp_cli.preferences.autocheck import Checker
    from amp_cli.preferences.browsing import ViewSettings, view_preferences
    from amp_cli.preferences.encoders import MiniLMEncoder
    from amp_cli.preferences.nounchunks import ChunkParser

    result = view_preferences(
        ViewSettings(
            prefs=prefs,
            out=out,
            image_root=image_root,
            limit=limit,
            thumbnail=thumbnail,
            checker=Checker(encoder=MiniLMEncoder(), parser=ChunkParser()) if chunks else None,
        )
    )
    if json:
        ui.data(result.to_json())
    else:
        rows = [
            ("page", result.out),
            ("size", size_text(result.out.stat().st_size)),
            ("items", f"{result.items:,}" + (" (the file has more; see --limit)" if result.more else "")),
            ("images", f"{result.images:,}"),
        ]
        ui.table("Open it in a browser", ("", ""), rows)
    ui.hint(train_line(prefs, image_root=image_root))
    tell_leftovers(result.refused, "entries could not be shown, or not whole", prefs)
