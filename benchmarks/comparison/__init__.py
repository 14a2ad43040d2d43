"""Every policy on every shipped scenario, over seeds: one command, its table and its page."""
