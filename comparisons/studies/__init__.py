"""Questions of the field.

All built-in cases, the cures, trained models, optimisers, a model file's layers.
"""
