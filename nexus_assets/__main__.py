"""`python -m nexus_assets` is `nexus`."""

from nexus_assets.cli import main

main()
