"""What a training job's workers use: the plan's choice of how to communicate, read from the environment and applied."""
