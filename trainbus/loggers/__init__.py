"""Loggers for other frameworks: `trainbus.TrainbusLogger` for Lightning, `trainbus.TrainbusTracker` for Accelerate."""
