raise ImportError("x")
