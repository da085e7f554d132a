from fastrnn.parameters import Array

ALIGNMENT: int
READ_BYTES: int

def multiply_add(dtype: str, rounds: int) -> int: ...
def read(data: Array, times: int) -> int: ...
