"""What other programs write about a training, as events: lines of output, logs, trainer_state.json, TensorBoard folders."""
