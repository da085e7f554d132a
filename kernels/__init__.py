"""The fast kernels. Nothing here defines meaning: `fastrnn.reference` does, and every kernel must equal it."""
