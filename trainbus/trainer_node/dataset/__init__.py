"""Training data from a file to token ids on disk: read, rendered, tokenised, cached, looked over, packed."""
