"""Decides which checkpoints stay, and deletes the others safely."""
