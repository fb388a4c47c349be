"""What an evaluation measures beyond the loss: calibration, answers, what they get wrong. `examination` puts it together."""
