"""PyTorch: autograd, its own recurrent modules, its optimisers, its gradcheck."""
