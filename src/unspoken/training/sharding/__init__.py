"""Where the parameters of a training are: whole on every process, or in shards (`train.sharding`)."""
