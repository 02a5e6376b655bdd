"""What models are measured by. No measure knows a model: functions and tensors go in."""
