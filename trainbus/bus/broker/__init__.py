"""The one process that takes events in, journals them, and fans them out."""
