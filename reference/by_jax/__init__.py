"""JAX: reverse and forward mode, compiled programs, optax's optimisers, its check_grads."""
