"""ringkeeperd: the daemon that turns the keys of a ring, and the `ringkeeper` command."""
