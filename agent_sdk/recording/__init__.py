"""What user code touches: trackers, runs, steps, the decorator and the ambient context."""
