"""``python -m decentral``: the command line."""

from __future__ import annotations

from decentral.cli.entry import main

main()
