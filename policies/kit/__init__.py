"""What helps to write a policy: a package to start from, the check, and the bench."""
