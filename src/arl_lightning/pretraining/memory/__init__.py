"""`arl bench memory`: the memory of a training step, from the step itself on tensors without values."""
