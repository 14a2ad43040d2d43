"""The Mesos v1 scheduler API in JSON: the market's calls and events, as clients of Mesos say and hear them."""
