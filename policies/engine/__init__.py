"""The chain that runs policies for a call: admit, reserve, forward with retries, settle."""
