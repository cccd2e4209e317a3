"""Other durable engines, each in an environment of its own (`PEERS=1 make bench`)."""
