"""The data plane: shards, logs and measurements over HTTP/1.1 between agents."""
