TASK = None
