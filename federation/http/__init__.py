"""The master's HTTP side: a route table, its handlers, and what is generated from it."""
