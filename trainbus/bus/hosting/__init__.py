"""Where plugins run: registry, host, supervisor."""
