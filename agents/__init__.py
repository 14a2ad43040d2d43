"""The agent: measures, offers, runs tasks and moves shards on a device or in front of a rack."""
