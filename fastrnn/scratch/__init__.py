"""The function and class names of well-known from-scratch NumPy networks, computed by fastrnn's kernels."""
