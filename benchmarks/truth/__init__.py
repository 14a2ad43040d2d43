"""Published results, reproduced: what others measured on their data, and what this project's policies do on it."""
