"""`python -m stream_app` is `nextclick`."""

from stream_app.cli import main

main()
