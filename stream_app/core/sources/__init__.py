"""Where the second stage's candidates come from: a file per source, each with what it tells of every candidate."""
