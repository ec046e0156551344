"""What ringkeeper costs, measured beside what others do, on this machine, in this run."""
