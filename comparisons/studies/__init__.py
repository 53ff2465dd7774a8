"""Questions of the field: all built-in cases, the cures, trained models, optimisers, a model file's layers."""
