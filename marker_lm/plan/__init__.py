"""What a run needs on a pod, learned from the compiler before anyone pays for chips."""
