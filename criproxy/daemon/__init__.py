"""The composition root: builds the rooms from the configuration, and runs until told to stop."""
