"""Training: GRU4Rec and item2vec in PyTorch, evaluation, baselines.  Serving never imports this."""
