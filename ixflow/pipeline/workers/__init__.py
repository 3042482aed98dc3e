"""Running tasks in other processes, which ask the process that runs the flow: the leader."""
