"""From the configuration of a published model to a job in the language, and the names of its weights in checkpoints."""
