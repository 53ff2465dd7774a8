"""The cells, one derivation a file: equations, step, step_backward, state Jacobian."""
