"""The paper's objective, one equation a function: tensors in, a scalar or a tensor out."""
