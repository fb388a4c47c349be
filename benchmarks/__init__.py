"""What trainbus costs and carries, beside its peers and the machine's limits: `python -m benchmarks`."""
