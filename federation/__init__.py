"""The master: books of agents, offers, tasks, shards, shares and links; journal, wire, transports."""
