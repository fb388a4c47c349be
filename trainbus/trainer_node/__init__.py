"""The trainer: data, model, job, callback."""
