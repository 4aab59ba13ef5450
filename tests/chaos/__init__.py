"""Faults on purpose: real brokers, real kills, and an oracle that counts what went wrong.

`make chaos` runs the rows of `rows/` and prints a finding per variant; `--seed` draws other moments.  A row
takes a stream from the `Lab` (topics, models, clicks, workers), breaks something, and ends with the
`verdict`: each partition's clicks replayed in offset order through the pure step, against the answers, the
changelog and the RocksDB of each partition's last owner, bit for bit.  Faults that must come from inside a
worker are injected by `worker.py`, at the named points of its loop.
"""
