"""Studies: plan the tasks, run each of them once, in processes that share the cores, and collect the results."""
