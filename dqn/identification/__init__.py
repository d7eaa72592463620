"""Which world explains a record of observed transitions. This room imports no PyTorch: serving uses it too."""
