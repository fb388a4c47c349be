"""Alerts on the numbers of a training run: non-finite values, spikes, outliers, new best models."""
