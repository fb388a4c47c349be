"""Sinks: what the bus carries, handed on to TensorBoard, MLflow, W&B, Trackio, Prometheus, OpenTelemetry, JSONL and Parquet."""
