"""Training data that a model writes: asked for with seeds, validated, without duplicates, put into the inbox with where it came from."""
