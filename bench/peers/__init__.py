"""Programs of others that do the same work. Each runs in the environment that bench.peers.venv makes."""
