"""Questions of the field: all built-in cases, cures, trained models, optimisers, a model file."""
