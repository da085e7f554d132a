"""The benchmark suite: fastrnn against its peers and against the machine's limits; see bench/README.md."""
